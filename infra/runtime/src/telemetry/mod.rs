//! Logs, metrics and traces.
//!
//! Logs go to standard error: for people on a terminal, as JSON otherwise; `RUST_LOG` filters them.
//! Metrics are `OpenTelemetry` instruments, read by Prometheus at `/metrics`. Traces are sent to a
//! collector (OTLP over HTTP) if `OTEL_EXPORTER_OTLP_ENDPOINT` is set. If the collector is away,
//! spans are dropped, never the work.

mod chain;
mod trace;

use std::fs::File;
use std::io::IsTerminal;
use std::sync::{Mutex, OnceLock, PoisonError};

use opentelemetry::global;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use prometheus::{Encoder, Registry, TextEncoder};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

pub use chain::chain;
pub use trace::{continue_trace, traceparent};

// lapin logs what it also returns as errors; those are logged where they are handled.
const DEFAULT_FILTER: &str = "info,lapin=off,sqlx=warn,opentelemetry=warn,opentelemetry_sdk=warn";

static METRICS: OnceLock<Registry> = OnceLock::new();
static METRICS_INIT: Mutex<()> = Mutex::new(());

/// What must be flushed at the end of the process.
#[derive(Debug)]
pub struct Telemetry {
    tracer: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Sends the spans that are still waiting.
    pub fn flush(&self) {
        if let Some(tracer) = &self.tracer
            && let Err(error) = tracer.shutdown()
        {
            tracing::warn!(
                error = %crate::telemetry::chain(&error),
                "spans were not sent"
            );
        }
    }
}

/// Makes ring the TLS provider of the process's clients.
pub fn install_tls() {
    // An error says that the process has one already, which then is the same one.
    rustls::crypto::ring::default_provider()
        .install_default()
        .unwrap_or_default();
}

/// Where logs go.
#[derive(Debug)]
pub enum Output {
    /// Standard error: for people if it is a terminal, else JSON.
    Stderr,
    /// A file, for people.
    File(File),
}

/// Sets up logs, metrics and traces for the process, and the TLS provider that clients share.
#[must_use]
pub fn init(service: &'static str, output: Output) -> Telemetry {
    install_tls();
    metrics_registry();
    global::set_text_map_propagator(TraceContextPropagator::new());

    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let layer = tracing_subscriber::fmt::layer();
    let logs = match output {
        Output::File(file) => layer.with_ansi(false).with_writer(Mutex::new(file)).boxed(),
        Output::Stderr if std::io::stderr().is_terminal() => {
            layer.with_writer(std::io::stderr).boxed()
        }
        Output::Stderr => layer
            .json()
            .flatten_event(true)
            .with_ansi(false)
            .with_writer(std::io::stderr)
            .boxed(),
    };
    let tracer = tracer(service);
    let spans = tracer
        .as_ref()
        .map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer("headrace")));
    // A process that has a subscriber already (a test) keeps it.
    tracing_subscriber::registry()
        .with(spans)
        .with(logs.with_filter(filter))
        .try_init()
        .unwrap_or_default();
    Telemetry { tracer }
}

fn tracer(service: &'static str) -> Option<SdkTracerProvider> {
    let endpoint = [
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    ];
    if !endpoint.iter().any(|name| std::env::var_os(name).is_some()) {
        return None;
    }
    match opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .build()
    {
        Ok(exporter) => {
            let provider = SdkTracerProvider::builder()
                .with_batch_exporter(exporter)
                .with_resource(Resource::builder().with_service_name(service).build())
                .build();
            global::set_tracer_provider(provider.clone());
            Some(provider)
        }
        Err(error) => {
            eprintln!("{service}: traces are off: {error}");
            None
        }
    }
}

/// The process's metrics; sets them up at the first call, before which instruments count nothing.
pub fn metrics_registry() -> &'static Registry {
    let _only_once = METRICS_INIT.lock().unwrap_or_else(PoisonError::into_inner);
    METRICS.get_or_init(|| {
        let registry = Registry::new();
        match opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .without_target_info()
            .build()
        {
            Ok(reader) => {
                global::set_meter_provider(SdkMeterProvider::builder().with_reader(reader).build());
            }
            Err(error) => eprintln!("metrics are off: {error}"),
        }
        registry
    })
}

/// All metrics in Prometheus' text format.
pub fn metrics_page() -> Result<String, prometheus::Error> {
    let mut page = Vec::new();
    TextEncoder::new().encode(&metrics_registry().gather(), &mut page)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}
