//! How the page looks on a phone and on a desk, and what it is to those who do not see it or have no pointer.

use browser::{Scheme, Size};
use serde_json::Value;

use crate::driven::{DESK, Driven, PHONE};
use crate::fake::{Fake, KEY, vehicle};

fn fleet() -> impl Iterator<Item = Value> {
    (0..64).map(|index| {
        let freshness = match index {
            5 | 23 | 41 => "stale",
            12 => "offline",
            30 | 31 => "never_seen",
            _ => "fresh",
        };
        // Along a few roads out of a town.
        let (road, step) = (f64::from(index % 7) * 0.9, f64::from(index / 7 + 1) * 0.011);
        let charge = f64::from((index * 37) % 83) + 16.4;
        let (latitude, longitude) = (52.09 + step * road.sin(), 5.12 + 1.6 * step * road.cos());
        vehicle(
            &format!("bus-{:02}", index + 1),
            freshness,
            charge,
            latitude,
            longitude,
        )
    })
}

const PAGES: [(&str, &str, &str); 3] = [
    ("fleet", "#/", "Vehicles"),
    ("vehicle", "#/vehicles/bus-07", "Latest events"),
    ("pipeline", "#/pipeline", "Ingress queues"),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_page_fits_a_phone_and_a_desk_in_light_and_dark() {
    let fake = Fake::start(fleet()).await;
    let driven = Driven::open(&fake.url).await;
    driven.until("document.activeElement?.id === 'key'").await;
    driven.picture("sign-in-desk-light").await;
    driven.sign_in(KEY).await;
    driven.shows("of 64").await;
    for (name, hash, shown) in PAGES {
        driven.evaluate(&format!("location.hash = '{hash}'")).await;
        driven.shows(shown).await;
        driven
            .until("!document.body.innerText.includes('Loading')")
            .await;
        let narrow = Size {
            width: 320,
            height: 600,
        };
        for (size, of) in [(narrow, None), (PHONE, Some("phone")), (DESK, Some("desk"))] {
            for (scheme, colours) in [(Scheme::Light, "light"), (Scheme::Dark, "dark")] {
                driven.page.look(size, scheme).await.unwrap();
                driven.until(&format!("innerWidth === {} && document.documentElement.dataset.theme === '{colours}'", size.width)).await;
                // Nothing but tables may be wider than the window.
                driven
                    .until(&format!(
                        "document.documentElement.scrollWidth <= {}",
                        size.width
                    ))
                    .await;
                // One frame later it is painted as well.
                driven.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))").await;
                if let Some(of) = of {
                    driven.picture(&format!("{name}-{of}-{colours}")).await;
                }
            }
        }
        driven.page.look(DESK, Scheme::Light).await.unwrap();
    }
    driven.close(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_screen_reader_is_told_has_names_and_an_order() {
    let fake = Fake::start(fleet()).await;
    let driven = Driven::signed_in(&fake.url, KEY).await;
    for (name, hash, shown) in PAGES {
        driven.evaluate(&format!("location.hash = '{hash}'")).await;
        driven.shows(shown).await;
        driven
            .until("!document.body.innerText.includes('Loading')")
            .await;
        for node in driven.page.accessibility().await.unwrap() {
            let role = node["role"]["value"].as_str().unwrap_or_default();
            let needs_name = [
                "button",
                "link",
                "textbox",
                "searchbox",
                "combobox",
                "image",
                "img",
                "table",
                "region",
                "navigation",
                "heading",
                "columnheader",
            ];
            let told = node["name"]["value"].as_str().unwrap_or_default();
            assert!(
                !needs_name.contains(&role) || !told.trim().is_empty(),
                "{name}: a {role} without a name: {node}"
            );
        }
        let levels = driven.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map((one) => Number(one.tagName[1]))").await;
        let levels: Vec<_> = levels
            .as_array()
            .unwrap()
            .iter()
            .map(|level| level.as_i64().unwrap())
            .collect();
        assert_eq!(
            levels.iter().filter(|level| **level == 1).count(),
            1,
            "{name}: {levels:?}"
        );
        assert_eq!(levels[0], 1, "{name}");
        assert!(
            levels.windows(2).all(|pair| pair[1] <= pair[0] + 1),
            "{name}: {levels:?}"
        );
        for (what, count) in [
            ("main", 1),
            ("header", 1),
            ("[tabindex]:not([tabindex=\"0\"]):not([tabindex=\"-1\"])", 0),
            ("table:not(:has(caption))", 0),
            ("th:not([scope])", 0),
            ("html:not([lang])", 0),
        ] {
            let found = format!(
                "document.querySelectorAll({}).length",
                serde_json::json!(what)
            );
            assert_eq!(driven.evaluate(&found).await, count, "{name}: {what}");
        }
        let twice = "(() => { const ids = [...document.querySelectorAll('[id]')].map((one) => one.id); return ids.filter((id, index) => ids.indexOf(id) !== index); })()";
        assert_eq!(
            driven.evaluate(twice).await,
            serde_json::json!([]),
            "{name}"
        );
        for scheme in [Scheme::Light, Scheme::Dark] {
            driven.page.look(DESK, scheme).await.unwrap();
            let faint = driven.evaluate(FAINT).await;
            assert_eq!(
                faint,
                serde_json::json!([]),
                "{name}, {scheme:?}: too little contrast"
            );
            if let Some(rules) = std::env::var_os("HEADRACE_TEST_AXE") {
                let rules = std::fs::read_to_string(rules).unwrap();
                driven.evaluate(&rules).await;
                let found = driven.evaluate(VIOLATIONS).await;
                assert_eq!(found, serde_json::json!([]), "{name}, {scheme:?}");
            }
        }
    }
    driven.close(&[]).await;
}

/// What axe-core finds wrong.
const VIOLATIONS: &str = "axe.run().then((found) => found.violations.map(({ id, nodes }) => [id, nodes.map((node) => node.html)]))";

/// Texts whose contrast with what is behind them is below 4.5 to 1 (WCAG 2.2, 1.4.3).
const FAINT: &str = r"(() => {
    const parse = (text) => { const found = text.match(/[\d.]+/g).map(Number); return { rgb: found.slice(0, 3), alpha: found[3] ?? 1 }; };
    const light = (rgb) => { const [r, g, b] = rgb.map((one) => { const part = one / 255; return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
    const behind = (node) => { for (let at = node; at; at = at.parentElement) { const { rgb, alpha } = parse(getComputedStyle(at).backgroundColor); if (alpha === 1) return rgb; } return [255, 255, 255]; };
    const faint = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let text = walker.nextNode(); text; text = walker.nextNode()) {
        const node = text.parentElement;
        if (!text.data.trim() || !node.checkVisibility() || node.closest('.unseen, .skip, noscript, :disabled, .changed')) continue;
        const style = getComputedStyle(node);
        const colour = parse(node.namespaceURI.endsWith('svg') ? style.fill : style.color);
        const [high, low] = [light(colour.rgb), light(behind(node))].sort((one, other) => other - one);
        const ratio = (high + 0.05) / (low + 0.05);
        if (ratio < 4.5) faint.push(`${text.data.trim()} ${ratio.toFixed(2)}`);
    }
    return faint;
})()";

#[tokio::test(flavor = "multi_thread")]
async fn a_vehicle_is_found_and_left_again_by_keys_alone() {
    let fake = Fake::start(fleet()).await;
    let driven = Driven::signed_in(&fake.url, KEY).await;
    // The first stop is the way past the header.
    driven.page.go(&format!("{}/", fake.url)).await.unwrap();
    driven.until("document.activeElement?.tagName === 'H1' && document.querySelectorAll('.vehicles tbody th a').length > 9").await;
    driven.evaluate("document.activeElement.blur(); document.getSelection().removeAllRanges(); document.body.focus()").await;
    driven.tab_to("#search").await;
    assert_ne!(
        driven
            .evaluate("getComputedStyle(document.activeElement).outlineStyle")
            .await,
        "none",
        "the focus is seen"
    );
    driven.page.write("bus-42").await.unwrap();
    driven
        .until("document.querySelectorAll('.vehicles tbody tr').length === 1")
        .await;
    driven.tab_to(".vehicles tbody a").await;
    driven.page.press("Enter").await.unwrap();
    driven.until("document.activeElement?.tagName === 'H1' && document.activeElement.textContent === 'bus-42'").await;
    assert_eq!(driven.evaluate("document.title").await, "bus-42 – Headrace");
    driven.evaluate("history.back()").await;
    // Where one was, with what was searched for.
    driven.until("document.activeElement?.textContent === 'bus-42' && document.activeElement.tagName === 'A'").await;
    assert_eq!(
        driven
            .evaluate("document.getElementById('search').value")
            .await,
        "bus-42"
    );
    driven.evaluate("document.activeElement.blur()").await;
    driven.tab_to("#skip").await;
    driven.page.press("Enter").await.unwrap();
    driven
        .until("document.activeElement?.id === 'main' && location.hash !== '#main'")
        .await;
    driven.close(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_scope_operate_the_pipeline_shows_the_workspaces_part() {
    let fake = Fake::start(fleet()).await;
    fake.allow(&["read"]);
    let driven = Driven::signed_in(&fake.url, KEY).await;
    driven.evaluate("location.hash = '#/pipeline'").await;
    driven.shows("needs a key with the scope “operate”").await;
    driven.shows("vehiclepositions").await;
    driven.shows("expected <b>value</b> at line 1").await;
    assert!(
        fake.asked()
            .iter()
            .all(|asked| !asked.starts_with("pipeline"))
    );
    driven.close(&[]).await;
}
