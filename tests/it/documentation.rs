//! The documentation says what the code does.

use std::collections::BTreeSet;
use std::path::Path;

use headrace::services::Service;
use runtime::config;

use crate::access::sources;

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

/// The names of all problems in the program's sources: the first word in quotes that is given to what
/// makes a problem.
fn problems_in_the_sources() -> BTreeSet<String> {
    const MAKERS: [&str; 6] = [
        "Problem::new(",
        "bad_request(",
        "not_found(",
        "Self::new(",
        "unprocessable(",
        "forbidden(",
    ];
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut names = BTreeSet::new();
    for part in [
        "infra/runtime",
        "infra/launcher",
        "ingress-consumer",
        "ingress-publisher",
        "projections",
    ] {
        for file in sources(&root.join(part).join("src")) {
            let text = std::fs::read_to_string(&file).unwrap();
            for maker in MAKERS {
                let calls = text.split(maker).skip(1).map(arguments);
                names.extend(calls.filter_map(|call| {
                    let quoted = call.split('"').skip(1).step_by(2);
                    quoted.map(str::to_owned).find(|text| is_name(text))
                }));
            }
        }
    }
    names
}

/// The text up to the bracket that ends a call.
fn arguments(call: &str) -> &str {
    let mut open = 1;
    let end = call.find(|c| {
        open += i32::from(c == '(') - i32::from(c == ')');
        open == 0
    });
    end.map_or(call, |end| &call[..end])
}

fn is_name(text: &str) -> bool {
    let parts = text.split('-');
    parts
        .into_iter()
        .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase()))
}

#[test]
fn every_problem_is_documented_and_no_other() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/problems.md");
    let text = std::fs::read_to_string(file).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let rows = rows.filter(|line| !line.starts_with("| `type`"));
    let documented: BTreeSet<_> = rows
        .flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2))
        .filter(|word| is_name(word))
        .map(str::to_owned)
        .collect();
    let made = problems_in_the_sources();
    assert!(made.len() > 50, "{made:?}");
    let forgotten: Vec<_> = made.difference(&documented).collect();
    assert!(
        forgotten.is_empty(),
        "not in docs/problems.md: {forgotten:?}"
    );
    let gone: Vec<_> = documented.difference(&made).collect();
    assert!(
        gone.is_empty(),
        "in docs/problems.md, but nowhere made: {gone:?}"
    );
}
