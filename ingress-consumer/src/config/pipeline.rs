//! Configuration of what the pipeline's overview points to.

use reqwest::Url;
use runtime::config::Problems;
use serde::{Deserialize, Serialize};

/// What the pipeline's overview points to.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PipelineConfig {
    /// Where people find RabbitMQ's management pages; no link where it is not set.
    pub management_url: Option<String>,
}

impl PipelineConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        let Some(url) = &self.management_url else {
            return;
        };
        let is_page = Url::parse(url).is_ok_and(|url| {
            // It is shown to everybody who may see the pipeline, so there is no password in it.
            matches!(url.scheme(), "http" | "https")
                && url.username().is_empty()
                && url.password().is_none()
        });
        if !is_page {
            problems.add(
                "pipeline.management_url",
                &"(a URL)",
                "write a URL such as https://rabbitmq.example:15672, without a user or password",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_page_without_credentials_is_pointed_to() {
        let problems = |url: &str| {
            let mut problems = Problems::default();
            let config = PipelineConfig {
                management_url: Some(url.to_owned()),
            };
            config.validate(&mut problems);
            format!("{:?}", problems.as_slice())
        };
        assert_eq!(problems("https://rabbitmq.example:15672/x"), "[]");
        for wrong in [
            "rabbitmq:15672",
            "javascript:alert(1)",
            "http://user:secret@rabbitmq",
            "",
        ] {
            let told = problems(wrong);
            assert!(told.contains("pipeline.management_url"), "{wrong}: {told}");
            assert!(!told.contains("secret"), "{told}");
        }
    }
}
