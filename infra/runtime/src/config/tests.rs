use figment::Jail;
use serde::Deserialize;

use super::*;
use crate::access::AccessConfig;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Example {
    amqp: AmqpConfig,
    database: DatabaseConfig,
}

impl Config for Example {
    fn validate(&self, problems: &mut Problems) {
        self.amqp.validate(problems);
        self.database.validate(problems);
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stateless {
    amqp: AmqpConfig,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Guarded {
    access: AccessConfig,
}

impl Config for Guarded {
    fn validate(&self, problems: &mut Problems) {
        self.access.validate(problems);
    }
}

impl Config for Stateless {
    fn validate(&self, problems: &mut Problems) {
        self.amqp.validate(problems);
    }
}

// The error type of Jail is large, and not ours.
#[expect(clippy::result_large_err, reason = "figment's own signature")]
fn in_environment(variables: &[(&str, &str)], test: impl FnOnce(&mut Jail)) {
    Jail::expect_with(|jail| {
        jail.clear_env();
        for (name, value) in variables {
            jail.set_env(name, value);
        }
        test(jail);
        Ok(())
    });
}

const URLS: [(&str, &str); 2] = [
    ("DATABASE_URL", "postgres://u:secret@db/h"),
    ("AMQP_URL", "amqp://u:secret@mq:5672/%2f"),
];

#[test]
fn the_environment_overrides_the_file_which_overrides_the_defaults() {
    let mut variables = URLS.to_vec();
    variables.push(("HEADRACE_AMQP__PREFETCH", "7"));
    in_environment(&variables, |jail| {
        jail.create_file("c.toml", "[amqp]\nprefetch = 3\nconfirm_timeout = '2m'")
            .unwrap();
        let config: Example = load(Some(Path::new("c.toml"))).unwrap();
        assert_eq!(config.amqp.prefetch, 7);
        assert_eq!(config.amqp.confirm_timeout.as_secs(), 120);
        assert_eq!(config.database.max_connections, 10);
        assert_eq!(
            config.database.url.unwrap().expose(),
            "postgres://u:secret@db/h"
        );
    });
}

#[test]
fn all_problems_are_reported_at_once_with_key_value_and_fix() {
    let variables = [("AMQP_URL", "http://mq"), ("HEADRACE_AMQP__PREFETCH", "0")];
    in_environment(&variables, |_| {
        let text = load::<Example>(None).unwrap_err().to_string();
        for part in [
            "amqp.url (AMQP_URL) is http://mq",
            "amqp.prefetch",
            "is 0",
            "DATABASE_URL",
        ] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
    });
}

#[test]
fn an_unknown_key_and_a_value_of_the_wrong_type_are_named() {
    in_environment(&[("HEADRACE_AMQP__COLOUR", "blue")], |_| {
        let text = load::<Example>(None).unwrap_err().to_string();
        assert!(text.contains("colour"), "{text}");
    });
    in_environment(&[("HEADRACE_AMQP__PREFETCH", "many")], |_| {
        let text = load::<Example>(None).unwrap_err().to_string();
        assert!(
            text.contains("amqp.prefetch") && text.contains("many"),
            "{text}"
        );
    });
}

#[test]
fn a_secret_comes_from_a_file_and_is_not_printed() {
    in_environment(&URLS[1..], |jail| {
        jail.create_file("url", "postgres://u:other@db/h\n")
            .unwrap();
        jail.set_env("HEADRACE_DATABASE__URL_FILE", "url");
        let config: Example = load(None).unwrap();
        assert_eq!(
            config.database.url.as_ref().unwrap().expose(),
            "postgres://u:other@db/h"
        );
        let printed = print(&config);
        assert!(
            !printed.contains("secret") && !printed.contains("other"),
            "{printed}"
        );

        jail.set_env("HEADRACE_DATABASE__URL_FILE", "missing");
        let text = load::<Example>(None).unwrap_err().to_string();
        assert!(
            text.contains("database.url_file") && text.contains("missing"),
            "{text}"
        );
    });
}

#[test]
fn a_secret_is_text_whatever_it_looks_like() {
    let name = "HEADRACE_ACCESS__INTERNAL_TOKEN";
    for token in [
        "123456789012345678",
        "000123456789012345",
        "[12345678901234567]",
        "1234567890123456e7",
        "0123456789abcdef0123",
    ] {
        in_environment(&[(name, token)], |_| {
            let config: Guarded = load(None).unwrap();
            let read = config.access.internal_token.as_ref().unwrap();
            assert_eq!(read.expose(), token);
            assert!(!print(&config).contains(token));
        });
        let settings = [("access.internal_token".to_owned(), token.to_owned())];
        let config: Guarded = load_from(settings).unwrap();
        assert_eq!(config.access.internal_token.unwrap().expose(), token);
    }
    in_environment(&[], |jail| {
        jail.create_file("c.toml", "[access]\ninternal_token = 123456789012345678")
            .unwrap();
        let text = load::<Guarded>(Some(Path::new("c.toml")))
            .unwrap_err()
            .to_string();
        assert!(text.contains("access.internal_token"), "{text}");
        assert!(
            text.contains("in quotes") && !text.contains("1234"),
            "{text}"
        );
    });
}

#[test]
fn a_service_without_a_database_ignores_the_database_url() {
    in_environment(&URLS, |_| assert!(load::<Stateless>(None).is_ok()));
}

#[test]
fn a_file_that_is_not_there_is_named() {
    in_environment(&URLS, |_| {
        let text = load::<Example>(Some(Path::new("nowhere.toml")))
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("--config is nowhere.toml; the file cannot be read"),
            "{text}"
        );
    });
}
