//! A host's name with several addresses: each of them is a replica, and the name is asked for again. The test says what the
//! name resolves to; everything else is as in the program, real sockets included.

use std::{io, net::SocketAddr, sync::Arc, time::Instant};

use keymeter::{
    AccessLog, Gated, Pools,
    admission::{Gate, Settings},
    keys::{Resolver, YamlSource},
    limits::account::Accounts,
    observe::metrics::Metrics,
    server::gateway,
};
use keymeter_config::{self as config};
use parking_lot::Mutex;
use pingora::{
    apps::ServerApp,
    protocols::{Stream, l4::stream::Stream as Socket},
    proxy::{HttpProxy, http_proxy},
    server::configuration::ServerConf,
};
use tokio::{net::TcpListener, sync::watch, task::AbortHandle};

use super::*;
use crate::support::{
    client::{Arrival, PATIENCE, within},
    gateway::one_key,
    scene::{chat, post},
    script::{Gate as Door, usage},
};

/// What the name resolves to, and how often that was asked. `None`: nobody answers.
#[derive(Default)]
struct Name {
    addresses: Mutex<Option<Vec<SocketAddr>>>,
    asked: watch::Sender<u64>,
}

/// A gateway before an upstream of one name.
struct Named {
    name: Arc<Name>,
    pools: Pools,
    address: SocketAddr,
    tasks: [AbortHandle; 2],
}

impl Named {
    async fn start(fields: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keymeter.yaml");
        let upstream = format!("{{name: pool, url: \"http://fleet.invalid:8000\", resolve: 50ms{fields}}}");
        std::fs::write(&path, configuration(&upstream, "", "")).unwrap();
        std::fs::write(directory.path().join("keys.yaml"), one_key("")).unwrap();
        let loaded = config::load(&path, &config::environment).unwrap();
        let (metrics, name) = (Arc::new(Metrics::new(9).unwrap()), Arc::new(Name::default()));
        let resolver = Box::new({
            let name = name.clone();
            move |_| {
                let found = name.addresses.lock().clone().ok_or_else(|| io::Error::other("nobody answers"));
                name.asked.send_modify(|asked| *asked += 1);
                Box::pin(std::future::ready(found)) as _
            }
        });
        let pools = Pools::resolved_by(resolver, metrics.pools().clone());
        let accounts = Arc::new(Accounts::new(metrics.clone()));
        let (source, cache) = (Arc::new(YamlSource::new(loaded.keys)), &loaded.config.key_cache);
        let keys = Arc::new(Resolver::new(source, cache, accounts, metrics.clone(), Arc::default()));
        let gate = Gate::new(Settings::new(&loaded.config, &pools), keys, metrics, AccessLog::none());
        let gated = Gated::new(Arc::new(gate), gateway::Gateway::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = serve(listener, http_proxy(&Arc::new(ServerConf::default()), gated));
        let upkeep = pools.clone();
        let tasks = [tokio::spawn(serving), tokio::spawn(async move { upkeep.run().await })];
        Self { name, pools, address, tasks: tasks.map(|task| task.abort_handle()) }
    }

    /// The name resolves to these servers from now on. Returns once they are its replicas.
    async fn resolves_to(&self, servers: &[&ScriptedUpstream]) {
        let mut addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
        *self.name.addresses.lock() = Some(addresses.clone());
        addresses.sort_unstable();
        let start = Instant::now();
        while self.replicas() != addresses {
            assert!(start.elapsed() < PATIENCE, "{:?} do not become {addresses:?}", self.replicas());
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// Nobody answers for the name any more. Returns once it was asked for twice since.
    async fn resolves_no_more(&self) {
        *self.name.addresses.lock() = None;
        let mut asked = self.name.asked.subscribe();
        let before = *asked.borrow_and_update();
        within("the name to be asked for", asked.wait_for(|asked| *asked > before + 1)).await.unwrap();
    }

    /// The replicas' addresses, by which they are called where there are several.
    fn replicas(&self) -> Vec<SocketAddr> {
        let members = self.pools.find("pool").unwrap().members();
        let address = |replica: &Arc<keymeter::Replica>| {
            assert!(members.replicas.len() == 1 || *replica.name == *replica.address.unwrap().to_string());
            replica.address
        };
        members.replicas.iter().filter_map(address).collect()
    }

    async fn connect(&self) -> Client {
        Client::connect(self.address).await
    }

    /// The statuses of so many chats.
    async fn chats(&self, count: usize) -> Vec<u16> {
        let mut client = self.connect().await;
        let mut statuses = Vec::new();
        for _ in 0..count {
            statuses.push(ask_by(&mut client, SECRET).await.status);
        }
        statuses
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

async fn serve(listener: TcpListener, proxy: HttpProxy<Gated<gateway::Gateway>>) {
    let (proxy, (_stop, stopped)) = (Arc::new(proxy), watch::channel(false));
    while let Ok((stream, _)) = listener.accept().await {
        let (proxy, stopped) = (proxy.clone(), stopped.clone());
        tokio::spawn(async move {
            let mut stream: Option<Stream> = Some(Box::new(Socket::from(stream)));
            while let Some(reused) = stream {
                stream = proxy.process_new(reused, &stopped).await;
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_address_of_a_name_is_a_replica_and_one_that_comes_serves_too() {
    let (one, other, third) = (answering(2).await, answering(2).await, answering(2).await);
    let gateway = Named::start(", balance: round_robin").await;
    gateway.resolves_to(&[&one]).await;
    assert_eq!(gateway.chats(3).await, [200; 3]);
    gateway.resolves_to(&[&one, &other]).await;
    assert_eq!(gateway.chats(4).await, [200; 4]);
    assert_eq!((chats(&one).len(), chats(&other).len()), (5, 2));
    gateway.resolves_to(&[&one, &other, &third]).await;
    assert_eq!(gateway.chats(6).await, [200; 6]);
    assert_eq!((chats(&one).len(), chats(&other).len(), chats(&third).len()), (7, 4, 2));
    let host = "fleet.invalid:8000";
    assert!(
        [&one, &third].iter().all(|server| chats(server)[0].header("host") == Some(host)),
        "it is asked by its name"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_goes_gets_nothing_new_and_what_runs_there_finishes() {
    let door = Door::new();
    let held = door.clone();
    let leaving = ScriptedUpstream::start(move |request| Script::stream_of(request, 3, &usage(7, 3)).gated(1, &held));
    let (leaving, staying, coming) = (leaving.await, answering(2).await, answering(2).await);
    let gateway = Named::start(", balance: round_robin").await;
    gateway.resolves_to(&[&leaving]).await;
    let mut running = gateway.connect().await;
    assert_eq!(running.chat_stream(SECRET, &chat("m", "Hi!", false)).await.status, 200);
    gateway.resolves_to(&[&leaving, &staying]).await;
    gateway.resolves_to(&[&staying, &coming]).await;
    assert_eq!(gateway.chats(6).await, [200; 6]);
    assert_eq!((chats(&leaving).len(), chats(&staying).len(), chats(&coming).len()), (1, 3, 3));
    door.open();
    let (body, end) = running.rest().await;
    assert!(
        end == Arrival::End && String::from_utf8(body).unwrap().ends_with("data: [DONE]\n\n"),
        "it ends as it would"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_resolves_no_more_keeps_its_last_addresses() {
    let (one, other) = (answering(2).await, answering(2).await);
    let gateway = Named::start(", balance: round_robin").await;
    gateway.resolves_to(&[&one, &other]).await;
    gateway.resolves_no_more().await;
    assert_eq!(gateway.chats(4).await, [200; 4]);
    assert_eq!((chats(&one).len(), chats(&other).len()), (2, 2));
    gateway.resolves_to(&[&other]).await;
    assert_eq!(gateway.chats(2).await, [200; 2]);
    assert_eq!((chats(&one).len(), chats(&other).len()), (2, 4), "and follows it again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_is_gone_on_from_where_it_was_made_until_that_address_is_gone() {
    let responding = |id: &'static str| {
        let made =
            json!({"id": id, "object": "response", "output": [], "usage": {"input_tokens": 7, "output_tokens": 5}});
        ScriptedUpstream::start(move |_| Script::json(200, &made))
    };
    let (one, other) = (responding("resp_one").await, responding("resp_other").await);
    let gateway = Named::start(", balance: round_robin").await;
    let mut client = gateway.connect().await;
    let mut goes_on = async |from: &str| {
        let body = json!({"model": "m", "input": "On.", "previous_response_id": from});
        let answer = post(&mut client, "/v1/responses", SECRET, &body).await;
        (answer.status, answer.json()["id"].as_str().unwrap_or_default().to_owned())
    };
    let of = |id: &str| (200, id.to_owned());
    gateway.resolves_to(&[&one]).await;
    assert_eq!(goes_on("resp_of_before").await, of("resp_one"));
    gateway.resolves_to(&[&one, &other]).await;
    for _ in 0..4 {
        assert_eq!(goes_on("resp_one").await, of("resp_one"), "its maker has another name than it had");
    }
    gateway.resolves_to(&[&other]).await;
    assert_eq!(goes_on("resp_one").await, of("resp_other"), "and is no error once it is gone");
}
