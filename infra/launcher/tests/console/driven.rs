//! A browser with the console in it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use browser::{Browser, Page, Scheme, Size};
use serde_json::{Value, json};

/// How long anything may take that should happen soon, on a machine that is busy. A simulated vehicle that is
/// parked when the system starts is first heard of after half a minute.
pub const SOON: Duration = Duration::from_mins(1);
pub const DESK: Size = Size {
    width: 1280,
    height: 800,
};
pub const PHONE: Size = Size {
    width: 390,
    height: 844,
};

pub struct Driven {
    browser: Browser,
    pub page: Page,
    url: String,
}

impl Driven {
    /// A browser that has gone to the gateway at `url`.
    pub async fn open(url: &str) -> Self {
        let browser = Browser::start(|line| eprintln!("{line}")).await.unwrap();
        let page = browser.page().await.unwrap();
        page.look(DESK, Scheme::Light).await.unwrap();
        page.go(&format!("{url}/")).await.unwrap();
        Self {
            browser,
            page,
            url: url.to_owned(),
        }
    }

    /// The same, signed in with `key`.
    pub async fn signed_in(url: &str, key: &str) -> Self {
        let driven = Self::open(url).await;
        driven.sign_in(key).await;
        driven
            .until("document.querySelector('h1')?.textContent === 'Fleet'")
            .await;
        driven
            .until("document.querySelectorAll('.vehicles tbody th a').length > 0")
            .await;
        driven
    }

    /// Enters `key`, as soon as it is asked for.
    pub async fn sign_in(&self, key: &str) {
        self.until("document.activeElement?.id === 'key'").await;
        self.page.write(key).await.unwrap();
        self.page.press("Enter").await.unwrap();
    }

    /// Waits until `expression` is true.
    #[track_caller]
    pub fn until(&self, expression: &str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let found = self.page.until(SOON, expression).await;
            found.unwrap_or_else(|error| panic!("{caller}: {error:#}"));
        }
    }

    /// Waits until the page shows `text`.
    #[track_caller]
    pub fn shows(&self, text: &str) -> impl Future<Output = ()> {
        let text = json!(text);
        let caller = std::panic::Location::caller();
        async move {
            let shown = format!("document.body.innerText.includes({text})");
            let found = self.page.until(SOON, &shown).await;
            found.unwrap_or_else(|error| panic!("{caller}: {error:#}"));
        }
    }

    pub async fn evaluate(&self, expression: &str) -> Value {
        self.page.evaluate(expression).await.unwrap()
    }

    /// Chooses what `selector` finds, as a click does.
    pub async fn click(&self, selector: &str) {
        let selector = json!(selector);
        self.evaluate(&format!("document.querySelector({selector}).click()"))
            .await;
    }

    /// Presses Tab until the focus is on what `selector` finds.
    pub async fn tab_to(&self, selector: &str) {
        let is_there = format!(
            "document.activeElement?.matches({}) ?? false",
            json!(selector)
        );
        for _ in 0..60 {
            if self.evaluate(&is_there).await == true {
                return;
            }
            self.page.press("Tab").await.unwrap();
        }
        panic!("no Tab leads to {selector}");
    }

    /// Ends the browser, and looks at what the page complained of, but for what `expected` says, and whom it asked.
    pub async fn close(self, expected: &[&str]) {
        let complaints: Vec<_> = self
            .page
            .complaints()
            .into_iter()
            .filter(|complaint| !expected.iter().any(|text| complaint.text.contains(text)))
            .collect();
        assert!(complaints.is_empty(), "{complaints:#?}");
        let requests = self.page.requests();
        let own = format!("{}/", self.url);
        for url in &requests {
            let is_own = url.starts_with(&own) || url.starts_with("data:") || url == "about:blank";
            assert!(is_own, "it asks elsewhere: {url}");
            assert!(!url.contains("key="), "the key is in an address: {url}");
        }
        self.browser.close().await.unwrap();
    }

    /// Writes what is shown to a file of that name, for people to look at.
    pub async fn picture(&self, name: &str) {
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../console-screenshots");
        let file = directory.join(format!("{name}.png"));
        self.page.screenshot(&file).await.unwrap();
    }
}

/// Waits until `is_so`.
pub async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < deadline, "still not so: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
