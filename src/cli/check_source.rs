//! `keymeter check --source`: calls a key service as a gateway would, and as a stranger would, and reports where it breaks the
//! protocol (docs/key-source.md). Answers are read by the gateway's own code.

mod caller;
mod events;
mod known;
mod report;

use std::{path::PathBuf, time::Duration};

use clap::Args;
use keymeter_config::{
    Credential,
    keys::{Http, service_url},
};
use keymeter_core::key::{KeyHash, Secret};

use self::{
    caller::{Caller, REFUSALS, has_status},
    report::{Report, Verdict},
};
use super::serve::forbid_core_dumps;

/// Which service, and what is needed to reach it. Secrets come from the environment.
#[derive(Args)]
pub(super) struct SourceArgs {
    /// Examine the key service at this URL instead of a configuration. `{hash}` in the URL stands for the hash of a secret.
    /// The service's token is read from `KEYMETER_SOURCE_TOKEN`, and the secret of a working key from
    /// `KEYMETER_SOURCE_SECRET`.
    #[arg(long, value_name = "URL", required = false)]
    source: String,
    /// The URL of the service's events.
    #[arg(long, value_name = "URL", requires = "source")]
    events: Option<String>,
    /// A PEM file of certificates to trust instead of the system's.
    #[arg(long, value_name = "FILE", requires = "source")]
    ca: Option<PathBuf>,
}

const TOKEN: &str = "KEYMETER_SOURCE_TOKEN";
const SECRET: &str = "KEYMETER_SOURCE_SECRET";

/// How long a stream of events may be silent at first: services must send a comment every 15 s.
const SILENCE: Duration = Duration::from_secs(20);

pub(super) fn run(arguments: &SourceArgs) -> Result<(), Box<dyn std::error::Error>> {
    forbid_core_dumps();
    let examiner = Examiner::new(arguments, &|name| std::env::var(name).ok())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(examiner.examine()) {
        0 => Ok(()),
        failed => {
            Err(format!("checks that failed: {failed}; docs/key-source.md describes what a service must do").into())
        }
    }
}

/// Asks one service.
struct Examiner {
    caller: Caller,
    events_url: Option<String>,
    /// Of a key that the service has.
    known: Option<KeyHash>,
    /// Of no key.
    unknown: KeyHash,
    silence: Duration,
}

impl Examiner {
    fn new(
        arguments: &SourceArgs,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let variable = |name| environment(name).filter(|value| !value.is_empty()).map(Secret::new);
        let mut service = Http::at(&arguments.source).map_err(|error| format!("--source: {error}"))?;
        let events_url = arguments.events.as_deref().map(service_url).transpose();
        service.token = variable(TOKEN).map(Credential);
        service.ca.clone_from(&arguments.ca);
        Ok(Self {
            events_url: events_url.map_err(|error| format!("--events: {error}"))?.map(|url| url.to_string()),
            caller: Caller::new(service)?,
            known: variable(SECRET).map(|secret| secret.hash()),
            unknown: Secret::generate().map_err(|error| error.to_string())?.hash(),
            silence: SILENCE,
        })
    }

    /// Makes all checks. Says how many failed.
    async fn examine(&self) -> usize {
        let mut report = Report::default();
        let (caller, token) = (&self.caller, self.caller.token());
        let of_unknown = caller.ask(&caller.service.url_of(&self.unknown), token, None).await;
        report.line("an unknown hash", &has_status(of_unknown, &[404]));
        let of_none = caller.ask(&caller.service.url_with("zz"), token, None).await;
        report.line("zz, which is no hash", &has_status(of_none, &[404, 400]));
        report.line("no token", &self.refuses(None).await);
        report.line("a wrong token", &self.refuses(Some("keymeter-check-wrong-token")).await);
        self.examine_known(&mut report).await;
        self.examine_events(&mut report).await;
        report.line("time", &self.time());
        report.failed()
    }

    /// Whether a call without the right token is refused, both for a known and for an unknown key.
    async fn refuses(&self, token: Option<&str>) -> Verdict {
        if self.caller.token().is_none() {
            return Verdict::Skipped(format!("set {TOKEN} to the service's token"));
        }
        if let Some(known) = &self.known {
            let verdict = self.refuses_to_tell(known, token).await;
            if verdict.is_wrong() {
                return verdict;
            }
        }
        self.refuses_to_tell(&self.unknown, token).await
    }

    async fn refuses_to_tell(&self, hash: &KeyHash, token: Option<&str>) -> Verdict {
        has_status(self.caller.ask(&self.caller.service.url_of(hash), token, None).await, &REFUSALS)
    }

    fn time(&self) -> Verdict {
        let (slowest, timeout) = (self.caller.slowest(), self.caller.service.timeout);
        let said = format!("the slowest answer took {:.3} s of {} s", slowest.as_secs_f64(), timeout.as_secs_f64());
        if slowest < timeout { Verdict::Right(said) } else { Verdict::wrong("an answer in time", said) }
    }
}
