//! The documentation says what the code does.

use headrace::services::Service;
use runtime::config;

fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let start = text
        .find(&format!("\n## {heading}\n"))
        .unwrap_or_else(|| panic!("no section {heading}"));
    let rest = &text[start + 4..];
    rest.find("\n## ").map_or(rest, |end| &rest[..end])
}

#[test]
fn every_setting_of_every_service_is_documented() {
    let text = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../docs/configuration.md"
    ))
    .unwrap();
    let services = Service::ALL.map(|service| (service.name(), service.keys()));
    let gateway = (
        "gateway",
        config::keys::<headrace::gateway::GatewayConfig>(),
    );
    for (service, keys) in services.into_iter().chain([gateway]) {
        for key in keys {
            // What is the same in every service is written once.
            let shared = key.starts_with("access.");
            let section = section(&text, if shared { "access" } else { service });
            assert!(
                section.contains(&format!("`{key}`")),
                "{key} is missing in section {service}"
            );
            let variable = config::variable(&key);
            assert!(
                section.contains(&format!("`{variable}`")),
                "{variable} is missing in section {service}"
            );
        }
    }
}
