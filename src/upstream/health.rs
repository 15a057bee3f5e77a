//! Checks of replicas, each in a task of its own and never on a request's way: whether the port takes a connection or a path
//! answers with success, and whether the models are loaded.

use std::{net::SocketAddr, sync::Arc};

use keymeter_config::{HealthChecks, Upstream};
use keymeter_core::{
    clock::MonotonicTime,
    pool::{Change, CheckRules, EjectionRules, Rules},
};
use serde::Deserialize;
use tokio::{net::TcpStream, time::timeout};

use super::{Replica, ask::Asker, pool::Pool, words::in_words};

/// How the replicas of an upstream are checked; `None`: they are not. One server is checked where that is written.
pub(super) fn checks_of(upstream: &Upstream, replicas: usize) -> Option<HealthChecks> {
    let usual = || (replicas > 1).then(HealthChecks::default);
    upstream.pool.health.clone().or_else(usual)
}

/// What makes a replica of such an upstream down, up and ejected. One that nothing checks is never down.
pub(super) fn rules_of(upstream: &Upstream, replicas: usize) -> Rules {
    let checks = checks_of(upstream, replicas);
    let eject = upstream.pool.eject;
    Rules {
        checks: checks.map(|HealthChecks { down_after, up_after, .. }| CheckRules { down_after, up_after }),
        ejection: Some(EjectionRules { after: eject.after, lasts: eject.lasts }),
    }
}

/// The longest list of models that is read.
const LONGEST_LIST: usize = 4 << 20;

/// Checks a replica again and again.
pub(super) async fn check_forever(pool: Arc<Pool>, replica: Arc<Replica>, checks: HealthChecks, asker: Arc<Asker>) {
    let upstream = pool.members().upstream.clone();
    let check = Check { upstream: &upstream, replica: &replica, checks: &checks, asker: &asker };
    let mut was_well = true;
    loop {
        let found = match check.address().await {
            Some(address) => match timeout(checks.timeout, check.run(address)).await {
                Ok(found) => found,
                Err(_) => Found::Failed(format!("no answer within {:?}", checks.timeout)),
            },
            None => Found::Nothing,
        };
        if let Found::Failed(why) | Found::Loading(why) = &found {
            if std::mem::replace(&mut was_well, false) {
                tracing::warn!("upstream {}: replica {} fails its health check: {why}", pool.name, replica.name);
            }
        } else if matches!(found, Found::Well) {
            was_well = true;
        }
        tell(&pool, &replica, &found);
        tokio::time::sleep(checks.interval).await;
    }
}

/// Records what a check found, and tells those whom it concerns.
fn tell(pool: &Arc<Pool>, replica: &Arc<Replica>, found: &Found) {
    let now = MonotonicTime::now();
    let change = replica.update(|condition| match found {
        Found::Well => condition.check_passed(now),
        Found::Nothing => None,
        Found::Failed(why) => condition.check_failed(why),
        Found::Loading(why) => condition.check_found_it_loading(why),
    });
    match change {
        Some(Change::WentDown | Change::IsLoading) => {
            tracing::warn!("upstream {}: replica {} is down", pool.name, replica.name);
            pool.interrupt(replica, now);
            pool.serve(now);
        }
        Some(Change::CameUp) => {
            tracing::info!("upstream {}: replica {} is up", pool.name, replica.name);
            pool.serve(now);
        }
        Some(Change::Ejected { .. } | Change::Readmitted | Change::Paused { .. }) | None => {}
    }
}

/// What a check found.
enum Found {
    Well,
    Failed(String),
    /// It answers, and has not loaded its models.
    Loading(String),
    /// Its name has no address at present, which says nothing of itself.
    Nothing,
}

struct Check<'check> {
    upstream: &'check Upstream,
    replica: &'check Arc<Replica>,
    checks: &'check HealthChecks,
    asker: &'check Asker,
}

impl Check<'_> {
    /// Where it is, if that is found within a check's time.
    async fn address(&self) -> Option<SocketAddr> {
        let url = &self.replica.config.url;
        match self.replica.address {
            Some(address) => Some(address),
            None => timeout(self.checks.timeout, super::resolve(&url.host, url.port)).await.ok()?.ok(),
        }
    }

    async fn run(&self, address: SocketAddr) -> Found {
        let answered = match &self.checks.path {
            Some(path) => self.path(path).await,
            None if !self.checks.models => connect(address).await,
            None => Ok(()),
        };
        match answered {
            Ok(()) if self.checks.models => self.models().await,
            Ok(()) => Found::Well,
            Err(why) => Found::Failed(why),
        }
    }

    async fn path(&self, path: &str) -> Result<(), String> {
        let answer = self.asker.get(self.upstream, self.replica, path.as_bytes(), self.checks.timeout, 0).await;
        match answer.map_err(|error| in_words(&error))?.status {
            200..=299 => Ok(()),
            status => Err(format!("{path} answered {status}")),
        }
    }

    /// A server that still loads its weights lists nothing, or does not answer.
    async fn models(&self) -> Found {
        match self.lists_a_model().await {
            Ok(true) => Found::Well,
            Ok(false) => Found::Loading("/v1/models lists none of the models that the upstream serves".to_owned()),
            Err(why) => Found::Failed(why),
        }
    }

    async fn lists_a_model(&self) -> Result<bool, String> {
        #[derive(Deserialize)]
        struct Listed {
            data: Vec<Model>,
        }
        #[derive(Deserialize)]
        struct Model {
            id: String,
        }
        let patience = self.checks.timeout;
        let answer = self.asker.get(self.upstream, self.replica, b"/v1/models", patience, LONGEST_LIST).await;
        let answer = answer.map_err(|error| in_words(&error))?;
        if !(200..300).contains(&answer.status) {
            return Err(format!("/v1/models answered {}", answer.status));
        }
        let listed: Listed = serde_json::from_slice(&answer.body).map_err(|error| format!("/v1/models: {error}"))?;
        let serves = |id: &str| self.upstream.models.iter().any(|glob| glob.matches(id));
        // What it calls the models that clients call otherwise is one of them too.
        let is_renamed = |id: &str| self.replica.config.rename.values().any(|name| **name == *id);
        Ok(listed.data.iter().any(|model| serves(&model.id) || is_renamed(&model.id)))
    }
}

async fn connect(address: SocketAddr) -> Result<(), String> {
    TcpStream::connect(address).await.map(drop).map_err(|error| format!("no connection: {error}"))
}
