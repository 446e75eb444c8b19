//! A page: what is done to it, what it shows, and what it complains of.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::wire::Wire;

const PAUSE: Duration = Duration::from_millis(50);

/// A page of the browser.
pub struct Page {
    wire: Wire,
    session: String,
}

/// What a page complained of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// What kind of complaint: the console's level, `exception`, or where a log entry is from.
    pub kind: String,
    /// What it says.
    pub text: String,
}

/// Which colours the reader's system prefers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Dark on light.
    Light,
    /// Light on dark.
    Dark,
}

/// The size of the window, in CSS pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// How wide.
    pub width: u32,
    /// How high.
    pub height: u32,
}

impl Page {
    pub(crate) async fn open(wire: Wire) -> anyhow::Result<Self> {
        let blank = json!({"url": "about:blank"});
        let target = wire.send(None, "Target.createTarget", blank).await?;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = wire.send(None, "Target.attachToTarget", attach).await?;
        let session = attached["sessionId"].as_str().context("no session")?;
        let page = Self {
            wire,
            session: session.to_owned(),
        };
        for domain in ["Page", "Runtime", "Log", "Network", "Accessibility"] {
            page.send(&format!("{domain}.enable"), json!({})).await?;
        }
        Ok(page)
    }

    /// Sends a command of the protocol.
    pub async fn send(&self, method: &str, parameters: Value) -> anyhow::Result<Value> {
        self.wire
            .send(Some(&self.session), method, parameters)
            .await
    }

    /// Goes to `url`.
    pub async fn go(&self, url: &str) -> anyhow::Result<()> {
        let answer = self.send("Page.navigate", json!({"url": url})).await?;
        if let Some(error) = answer["errorText"].as_str() {
            bail!("{url}: {error}");
        }
        Ok(())
    }

    /// What `expression`, JavaScript, is; a promise is awaited.
    pub async fn evaluate(&self, expression: &str) -> anyhow::Result<Value> {
        let asked = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let mut answer = self.send("Runtime.evaluate", asked).await?;
        if let Some(exception) = answer.get("exceptionDetails") {
            bail!("{expression}: {exception}");
        }
        Ok(answer["result"]["value"].take())
    }

    /// Waits until `expression` is true, for at most `limit`; `shown` in the error is the page's text.
    pub async fn until(&self, limit: Duration, expression: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            // While a page is being left there is nothing to ask.
            let found = self.evaluate(expression).await;
            if matches!(&found, Ok(Value::Bool(true))) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let shown = self.evaluate("document.body.innerText").await?;
                bail!("after {limit:?} still {found:?}: {expression}; shown is: {shown}");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Presses and releases a key, by its name: `Tab`, `Enter`, `Escape` …
    pub async fn press(&self, key: &str) -> anyhow::Result<()> {
        let (code, text) = match key {
            "Tab" => (9, None),
            "Enter" => (13, Some("\r")),
            "Escape" => (27, None),
            " " => (32, Some(" ")),
            _ => bail!("no key {key:?} is known here"),
        };
        let mut down = json!({
            "type": if text.is_some() { "keyDown" } else { "rawKeyDown" },
            "key": key, "code": key, "windowsVirtualKeyCode": code,
        });
        if let Some(text) = text {
            down["text"] = json!(text);
        }
        self.send("Input.dispatchKeyEvent", down).await?;
        let up = json!({"type": "keyUp", "key": key, "code": key, "windowsVirtualKeyCode": code});
        self.send("Input.dispatchKeyEvent", up).await?;
        Ok(())
    }

    /// Types `text` where the focus is.
    pub async fn write(&self, text: &str) -> anyhow::Result<()> {
        self.send("Input.insertText", json!({"text": text})).await?;
        Ok(())
    }

    /// Makes the window so large, and prefer these colours.
    pub async fn look(&self, size: Size, scheme: Scheme) -> anyhow::Result<()> {
        let Size { width, height } = size;
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.send("Emulation.setDeviceMetricsOverride", metrics)
            .await?;
        let value = match scheme {
            Scheme::Light => "light",
            Scheme::Dark => "dark",
        };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": value}]});
        self.send("Emulation.setEmulatedMedia", media).await?;
        Ok(())
    }

    /// Writes what the whole page looks like to `file`, a PNG.
    pub async fn screenshot(&self, file: &Path) -> anyhow::Result<()> {
        let asked = json!({"format": "png", "captureBeyondViewport": true});
        let answer = self.send("Page.captureScreenshot", asked).await?;
        let data = answer["data"].as_str().context("no picture")?;
        if let Some(directory) = file.parent() {
            tokio::fs::create_dir_all(directory).await?;
        }
        tokio::fs::write(file, STANDARD.decode(data)?).await?;
        Ok(())
    }

    /// What a screen reader is told: the nodes that are not ignored, in their order.
    pub async fn accessibility(&self) -> anyhow::Result<Vec<Value>> {
        let tree = self.send("Accessibility.getFullAXTree", json!({})).await?;
        let nodes = tree["nodes"].as_array().cloned().unwrap_or_default();
        let told = nodes.into_iter().filter(|node| node["ignored"] != true);
        Ok(told.collect())
    }

    /// What the page has complained of so far.
    #[must_use]
    pub fn complaints(&self) -> Vec<Complaint> {
        let events = self.wire.events(&self.session);
        events.iter().filter_map(complaint).collect()
    }

    /// The URLs that the page has asked for so far.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        let events = self.wire.events(&self.session);
        let requests = events
            .iter()
            .filter(|event| event["method"] == "Network.requestWillBeSent");
        requests
            .filter_map(|event| event["params"]["request"]["url"].as_str())
            .map(str::to_owned)
            .collect()
    }
}

fn complaint(event: &Value) -> Option<Complaint> {
    let parameters = &event["params"];
    let (kind, text) = match event["method"].as_str()? {
        "Runtime.consoleAPICalled" => match parameters["type"].as_str()? {
            kind @ ("error" | "warning" | "assert") => (kind, parameters["args"].to_string()),
            _ => return None,
        },
        "Runtime.exceptionThrown" => ("exception", parameters["exceptionDetails"].to_string()),
        "Log.entryAdded" => {
            let entry = &parameters["entry"];
            match entry["level"].as_str()? {
                "error" | "warning" => (
                    entry["source"].as_str().unwrap_or("log"),
                    format!("{} {}", entry["text"], entry["url"]),
                ),
                _ => return None,
            }
        }
        _ => return None,
    };
    Some(Complaint {
        kind: kind.to_owned(),
        text,
    })
}
