//! The pools of all upstreams: made from the configuration and again at each reload, with what is known of replicas that stay;
//! and the tasks that check replicas and ask for the addresses of their names.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use keymeter_config::{self as config, HealthChecks, Upstream, UpstreamUrl};
use keymeter_core::clock::MonotonicTime;
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    task::{AbortHandle, JoinSet},
};

use super::{
    ask::Asker,
    health::{check_forever, checks_of, rules_of},
    members::Members,
    pool::Pool,
    replica::{Replica, ReplicaState},
};
use crate::observe::metrics::PoolMetrics;

/// The pools of all upstreams. Clones are the same.
#[derive(Clone)]
pub struct Pools {
    shared: Arc<Shared>,
}

struct Shared {
    metrics: PoolMetrics,
    resolver: Resolver,
    /// In the order of the configuration.
    pools: Mutex<Vec<Arc<Pool>>>,
    /// What names resolved to when they last did.
    addresses: Mutex<HashMap<Name, Vec<SocketAddr>>>,
    changed: Notify,
}

/// A host's name and the port there.
pub type Name = (Arc<str>, u16);

/// Finds the addresses of a name.
pub type Resolver = Box<dyn Fn(Name) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// How often it is looked whether a name is to be resolved again, or somebody in a queue could be served.
const TICK: Duration = Duration::from_millis(100);
/// How long a name may take to be resolved.
const RESOLVING: Duration = Duration::from_secs(5);

impl Pools {
    /// No pools, whose replicas will be told of by `metrics`.
    #[must_use]
    pub fn new(metrics: PoolMetrics) -> Self {
        Self::resolved_by(Box::new(|name| Box::pin(look_up(name))), metrics)
    }

    /// The same, for which `resolver` finds the addresses of names in place of the system's.
    #[must_use]
    pub fn resolved_by(resolver: Resolver, metrics: PoolMetrics) -> Self {
        let (pools, addresses, changed) = (Mutex::default(), Mutex::default(), Notify::new());
        Self { shared: Arc::new(Shared { metrics, resolver, pools, addresses, changed }) }
    }

    /// The pools of these upstreams, in their order. Replicas that were there before keep what is known of them; those that
    /// are gone get nothing new, and what runs on them goes on.
    pub fn renew(&self, upstreams: &[Arc<Upstream>], now: MonotonicTime) -> Vec<Arc<Pool>> {
        let mut pools = self.shared.pools.lock();
        let renewed: Vec<_> = upstreams
            .iter()
            .map(|upstream| match pools.iter().find(|pool| pool.name == upstream.name) {
                Some(pool) => {
                    pool.replace(self.members(upstream, &pool.members().replicas), now);
                    pool.clone()
                }
                None => Pool::new(self.members(upstream, &[]), self.shared.metrics.queue(&upstream.name)),
            })
            .collect();
        for gone in pools.iter().filter(|pool| !renewed.iter().any(|renewed| renewed.name == pool.name)) {
            gone.members().replicas.iter().for_each(|replica| replica.state.leave());
            // Those that wait there, or would go on there, go elsewhere.
            gone.replace(Members::new(gone.members().upstream.clone(), Vec::new()), now);
            self.shared.metrics.remove_queue(&gone.name);
        }
        pools.clone_from(&renewed);
        drop(pools);
        self.shared.changed.notify_one();
        renewed
    }

    /// All pools, in the order of the configuration.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Pool>> {
        self.shared.pools.lock().clone()
    }

    /// The pool of an upstream.
    #[must_use]
    pub fn find(&self, upstream: &str) -> Option<Arc<Pool>> {
        self.shared.pools.lock().iter().find(|pool| *pool.name == *upstream).cloned()
    }

    /// Checks replicas, and asks for the addresses of names, for as long as the process runs.
    pub async fn run(&self) {
        tokio::join!(self.check(), self.resolve_names(), self.serve());
    }

    async fn check(&self) {
        let (asker, mut tasks, mut running) = (Arc::new(Asker::default()), JoinSet::new(), HashMap::new());
        loop {
            self.check_all(&asker, &mut tasks, &mut running);
            self.shared.changed.notified().await;
            while tasks.try_join_next().is_some() {}
        }
    }

    async fn resolve_names(&self) {
        let mut resolved = HashMap::new();
        loop {
            self.resolve_all(&mut resolved).await;
            tokio::time::sleep(TICK).await;
        }
    }

    /// A pause or an ejection that has ended may be what somebody waits for, and another replica that is up by now.
    async fn serve(&self) {
        loop {
            tokio::time::sleep(TICK).await;
            for pool in self.all() {
                let now = MonotonicTime::now();
                pool.serve(now);
                pool.interrupt_all(now);
            }
        }
    }

    /// Begins the checks of replicas that are new or are to be checked otherwise, and ends those of others.
    fn check_all(&self, asker: &Arc<Asker>, tasks: &mut JoinSet<()>, running: &mut HashMap<Checked, AbortHandle>) {
        let mut wanted = HashSet::new();
        for pool in self.all() {
            let members = pool.members();
            let Some(checks) = checks_of(&members.upstream, members.replicas.len()) else { continue };
            for replica in &members.replicas {
                let checked = Checked::new(replica, &checks);
                if !running.contains_key(&checked) {
                    let check = check_forever(pool.clone(), replica.clone(), checks.clone(), asker.clone());
                    running.insert(checked.clone(), tasks.spawn(check));
                }
                wanted.insert(checked);
            }
        }
        running.retain(|checked, task| {
            let is_wanted = wanted.contains(checked);
            if !is_wanted {
                task.abort();
            }
            is_wanted
        });
    }

    /// Asks for the addresses of all names whose time has come. Several upstreams may have one name.
    async fn resolve_all(&self, resolved: &mut HashMap<Name, MonotonicTime>) {
        let mut due = HashSet::new();
        for pool in self.all() {
            let upstream = &pool.members().upstream;
            for name in upstream.replicas.iter().filter_map(|replica| name_of(&replica.url)) {
                let is_due = |at: &MonotonicTime| MonotonicTime::now().saturating_since(*at) >= upstream.pool.resolve;
                if resolved.get(&name).is_none_or(is_due) {
                    due.insert(name);
                }
            }
        }
        let mut changed = HashSet::new();
        for name in due {
            resolved.insert(name.clone(), MonotonicTime::now());
            if self.resolve(&name).await {
                changed.insert(name);
            }
        }
        if !changed.is_empty() {
            self.follow(&changed);
        }
    }

    /// These names have other addresses.
    fn follow(&self, changed: &HashSet<Name>) {
        let pools = self.shared.pools.lock();
        for pool in pools.iter() {
            let members = pool.members();
            let mut names = members.upstream.replicas.iter().filter_map(|replica| name_of(&replica.url));
            if names.any(|name| changed.contains(&name)) {
                pool.replace(self.members(&members.upstream, &members.replicas), MonotonicTime::now());
            }
        }
        drop(pools);
        self.shared.changed.notify_one();
    }

    /// Asks for the addresses of a name. Says whether they are others than before; where nobody answers, the last are kept.
    async fn resolve(&self, name: &Name) -> bool {
        let found = tokio::time::timeout(RESOLVING, (self.shared.resolver)(name.clone())).await;
        let Ok(Ok(mut found)) = found else { return false };
        found.sort_unstable();
        found.dedup();
        if found.is_empty() {
            return false;
        }
        let before = self.shared.addresses.lock().insert(name.clone(), found.clone());
        before.as_ref() != Some(&found)
    }

    /// The replicas of an upstream, of which some were there `before`.
    fn members(&self, upstream: &Arc<Upstream>, before: &[Arc<Replica>]) -> Members {
        let places: Vec<_> = upstream.replicas.iter().flat_map(|replica| self.places(replica)).collect();
        let stays = |replica: &Arc<Replica>| places.iter().any(|place| place.is(replica));
        // One whose name has another number of addresses is called otherwise from now on.
        let renamed = |place: &Place| before.iter().find(|replica| !stays(replica) && place.is_address_of(replica));
        let known = |place: &Place| before.iter().find(|replica| place.is(replica)).or_else(|| renamed(place));
        let goes =
            |replica: &&Arc<Replica>| !stays(replica) && !places.iter().any(|place| place.is_address_of(replica));
        // First, since a new one of the same name takes over its series.
        before.iter().filter(goes).for_each(|replica| replica.state.leave());
        let rules = rules_of(upstream, places.len());
        let replicas = places.iter().map(|place| {
            let state = known(place).map(|replica| {
                if replica.name != place.name {
                    replica.state.rename(self.shared.metrics.replica(&upstream.name, &place.name));
                }
                replica.state.clone()
            });
            let state = state.inspect(|state| state.set_rules(rules)).unwrap_or_else(|| {
                let must_load = upstream.pool.health.as_ref().is_some_and(|health| health.models);
                ReplicaState::new(rules, must_load, self.shared.metrics.replica(&upstream.name, &place.name))
            });
            Replica::new(place.name.clone(), place.config.clone(), place.address, state)
        });
        Members::new(upstream.clone(), replicas.collect())
    }

    /// Where a configured replica is: each of several addresses of its name is one.
    fn places(&self, replica: &Arc<config::Replica>) -> Vec<Place> {
        let place = |name, address| Place { name, config: replica.clone(), address };
        let Some(name) = name_of(&replica.url) else { return vec![place(replica.name.clone(), literal(&replica.url))] };
        match self.shared.addresses.lock().get(&name).map(Vec::as_slice) {
            None | Some([]) => vec![place(replica.name.clone(), None)],
            Some([only]) => vec![place(replica.name.clone(), Some(*only))],
            Some(several) => several.iter().map(|address| place(address.to_string().into(), Some(*address))).collect(),
        }
    }
}

async fn look_up((host, port): Name) -> io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host((&*host, port)).await?.collect())
}

/// A replica to be.
struct Place {
    name: Arc<str>,
    config: Arc<config::Replica>,
    address: Option<SocketAddr>,
}

impl Place {
    /// Whether that is this one, whose address may have become known.
    fn is(&self, replica: &Replica) -> bool {
        let is_there = self.address.is_none() || replica.address.is_none() || self.address == replica.address;
        self.name == replica.name && self.config.url == replica.config.url && is_there
    }

    /// Whether that is the address of this one, by the same host name.
    fn is_address_of(&self, replica: &Replica) -> bool {
        let is_named = name_of(&self.config.url).is_some() && self.config.url == replica.config.url;
        is_named && self.address.is_some() && self.address == replica.address
    }
}

/// A replica that is checked, and how.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Checked {
    /// The address of what is known of it, which is there as long as it is checked.
    state: usize,
    config: usize,
    address: Option<SocketAddr>,
    checks: String,
}

impl Checked {
    fn new(replica: &Arc<Replica>, checks: &HealthChecks) -> Self {
        Self {
            state: Arc::as_ptr(&replica.state).addr(),
            config: Arc::as_ptr(&replica.config).addr(),
            address: replica.address,
            checks: format!("{checks:?}"),
        }
    }
}

/// The name that is to be resolved to reach a server, if it has no address already.
fn name_of(url: &UpstreamUrl) -> Option<Name> {
    literal(url).is_none().then(|| (url.host.clone(), url.port))
}

fn literal(url: &UpstreamUrl) -> Option<SocketAddr> {
    url.ip().map(|address| SocketAddr::new(address, url.port))
}

#[cfg(test)]
mod tests;
