//! Signing in, finding vehicles among ten thousand, and names that mean harm.

use serde_json::json;

use crate::driven::{Driven, eventually};
use crate::fake::{Fake, KEY, vehicle};

const HOSTILE: [&str; 4] = [
    "<script>window.hacked=1</script>",
    "\"><img src=x onerror=\"window.hacked=1\">",
    "javascript:window.hacked=1//' & ${hacked} %41/..",
    "depot 7, bay 2/100%?vehicle=a,b#c+d",
];

fn large(vehicles: u32) -> impl Iterator<Item = serde_json::Value> {
    (0..vehicles).map(|index| {
        let freshness = match index % 20 {
            0 => "stale",
            1 => "offline",
            2 => "never_seen",
            _ => "fresh",
        };
        let (row, column) = (f64::from(index / 100), f64::from(index % 100));
        let charge = f64::from(index % 101);
        let name = format!("bus-{index:05}");
        vehicle(
            &name,
            freshness,
            charge,
            51.5 + row / 100.0,
            4.0 + column / 50.0,
        )
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_key_that_is_accepted_leads_in_and_it_is_kept_out_of_the_address() {
    let fake = Fake::start([vehicle("bus-1", "fresh", 50.0, 52.0, 5.0)]).await;
    let driven = Driven::open(&fake.url).await;
    driven.sign_in("hr_wrong").await;
    driven.shows("That key is not accepted").await;
    driven
        .evaluate("document.getElementById('key').value = ''")
        .await;
    driven.sign_in(KEY).await;
    driven.shows("bus-1").await;
    assert_eq!(
        driven.evaluate("location.href.includes('hr_')").await,
        false
    );
    assert_eq!(driven.evaluate("localStorage.length").await, 0);
    // A page that is loaded again goes on.
    driven
        .page
        .go(&format!("{}/#/vehicles/bus-1", fake.url))
        .await
        .unwrap();
    driven.until("document.title.startsWith('bus-1')").await;
    // A link may bring a key, which does not stay in the address.
    driven.evaluate("sessionStorage.clear()").await;
    let link = format!("{}/#key={KEY}&workspace=demo", fake.url);
    driven
        .evaluate(&format!("location.href = {}", json!(link)))
        .await;
    driven
        .until("document.querySelector('h1')?.textContent === 'Fleet'")
        .await;
    assert_eq!(driven.evaluate("location.hash").await, "#/");
    driven.click("#sign-out").await;
    driven.until("document.activeElement?.id === 'key'").await;
    assert_eq!(driven.evaluate("sessionStorage.length").await, 0);
    // The browser says by itself that an answer was 401.
    driven.close(&["401"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_let_in_with_a_key_may_enter_another() {
    let fake = Fake::start([vehicle("bus-1", "fresh", 50.0, 52.0, 5.0)]).await;
    let driven = Driven::open(&fake.url).await;
    let follow = async |key: &str| {
        let link = json!(format!("{}/#key={key}&workspace=demo", fake.url));
        driven.evaluate(&format!("location.href = {link}")).await;
    };
    follow("hr_%C3%A9").await;
    driven.shows("That is no key").await;
    assert_eq!(driven.evaluate("sessionStorage.length").await, 0);
    fake.refuse(503);
    follow(KEY).await;
    driven.shows("Waiting for Headrace").await;
    driven.click("#sign-out").await;
    driven.until("document.activeElement?.id === 'key'").await;
    fake.refuse(200);
    driven.sign_in(KEY).await;
    driven.shows("bus-1").await;
    driven.close(&["503"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn among_ten_thousand_vehicles_one_is_found_and_few_rows_are_there() {
    let fake = Fake::start(large(10_000)).await;
    let driven = Driven::signed_in(&fake.url, KEY).await;
    driven.shows("10,000 vehicles").await;
    driven.shows("1–50 of 10,000").await;
    let rows = "document.querySelectorAll('.vehicles tbody tr').length";
    assert_eq!(driven.evaluate(rows).await, 50);
    driven.click(".pager button:last-child").await;
    driven.shows("51–100 of 10,000").await;
    assert_eq!(driven.evaluate(rows).await, 50);

    driven
        .evaluate("document.getElementById('search').focus()")
        .await;
    driven.page.write("BUS-0432").await.unwrap();
    driven.until(&format!("{rows} === 10")).await;
    driven.shows("10 vehicles found").await;
    eventually("the server was asked", || {
        fake.asked()
            .iter()
            .any(|asked| asked.contains("search=BUS-0432"))
    })
    .await;

    driven.click(".tile:nth-child(2)").await;
    driven.until(&format!("{rows} === 1")).await;
    driven.shows("bus-04320").await;
    eventually("the server was asked for the stale", || {
        fake.asked()
            .iter()
            .any(|asked| asked.contains("freshness=stale"))
    })
    .await;
    assert_eq!(
        driven
            .evaluate("document.getElementById('freshness').value")
            .await,
        "stale"
    );

    driven.click(".tile:nth-child(2)").await;
    driven.click("[data-key=state_of_charge] button").await;
    driven.until("document.querySelector('[data-key=state_of_charge]').getAttribute('aria-sort') === 'descending'").await;
    let charges = "[...document.querySelectorAll('.vehicles tbody td:nth-child(3)')].map((cell) => parseFloat(cell.textContent))";
    driven.until(&format!("{charges}.length === 10 && {charges}.every((charge, index, all) => index === 0 || charge <= all[index - 1])")).await;
    driven.close(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vehicle_beyond_those_that_are_kept_is_found_and_shown() {
    let fake = Fake::start(large(20_100)).await;
    let driven = Driven::signed_in(&fake.url, KEY).await;
    driven.click("[data-key=state_of_charge] button").await;
    driven
        .shows("Sorted are the first 20,000 vehicles only")
        .await;
    driven.click("[data-key=vehicle] button").await;
    driven
        .evaluate("document.getElementById('search').focus()")
        .await;
    driven.page.write("bus-20055").await.unwrap();
    let row = "[...document.querySelectorAll('.vehicles tbody tr')].map((row) => [...row.cells].slice(0, 3).map((cell) => cell.innerText.trim()).join(' ')).join()";
    // 20055 modulo 101, as the fleet is made up.
    driven
        .until(&format!("{row} === 'bus-20055 Fresh 57.0 %'"))
        .await;
    driven.click(".vehicles tbody a").await;
    driven
        .until("document.querySelector('.signals tbody')?.textContent.includes('57.0 %')")
        .await;
    driven.close(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_markup_is_shown_as_text_everywhere() {
    let names = HOSTILE
        .iter()
        .map(|name| vehicle(name, "fresh", 50.0, 52.0, 5.0));
    let fake = Fake::start(names).await;
    let driven = Driven::signed_in(&fake.url, KEY).await;
    for (index, name) in HOSTILE.iter().enumerate() {
        driven.shows(name).await;
        let shown = format!("document.querySelectorAll('.vehicles tbody th a')[{index}].click()");
        // In the order of their bytes, which is not ours.
        driven.evaluate(&shown).await;
        driven
            .until("document.querySelector('h1').textContent !== 'Fleet'")
            .await;
        driven.shows("Latest verdicts").await;
        let title = driven
            .evaluate("document.querySelector('h1').textContent")
            .await;
        assert!(HOSTILE.contains(&title.as_str().unwrap()), "{title}");
        driven.shows("State of charge 50.0 %").await;
        driven.evaluate("history.back()").await;
        driven.until("document.querySelector('h1').textContent === 'Fleet' && document.querySelectorAll('.vehicles tbody th a').length === 4").await;
    }
    let foreign = "document.querySelectorAll('main script, main img, main iframe, main a[href^=javascript]').length";
    assert_eq!(driven.evaluate(foreign).await, 0);
    assert_eq!(driven.evaluate("typeof window.hacked").await, "undefined");
    driven.close(&[]).await;
}
