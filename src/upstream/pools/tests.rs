use std::path::Path;

use super::*;
use crate::{observe::metrics::Metrics, upstream::Wanted};

/// What a name resolves to, which tests change.
type Answers = Arc<Mutex<Option<Vec<SocketAddr>>>>;

fn resolver(answers: &Answers) -> Resolver {
    let answers = answers.clone();
    Box::new(move |_| {
        let found = answers.lock().clone().ok_or_else(|| io::Error::other("nobody answers"));
        Box::pin(std::future::ready(found))
    })
}

struct Scene {
    metrics: Metrics,
    answers: Answers,
    pools: Pools,
    pool: Arc<Pool>,
}

impl Scene {
    fn new() -> Self {
        Self::with("")
    }

    /// With more fields of the upstream.
    fn with(fields: &str) -> Self {
        let upstream = format!("{{name: pool, url: 'http://replicas.invalid:80', resolve: 1s{fields}}}");
        let text = format!("upstreams: [{upstream}]\nkeys: {{yaml: {{path: keys.yaml}}}}\n");
        let config = config::parse(&text, Path::new("/keymeter.yaml"), &|_| None).unwrap();
        let (metrics, answers) = (Metrics::new(1).unwrap(), Answers::default());
        let pools = Pools::resolved_by(resolver(&answers), metrics.pools().clone());
        let pool = pools.renew(&config.upstreams, MonotonicTime::now()).remove(0);
        Self { metrics, answers, pools, pool }
    }

    /// The name resolves to these, and the pool follows. `None`: nobody answers.
    async fn resolves_to(&self, addresses: Option<&[&str]>) {
        *self.answers.lock() = addresses.map(|all| all.iter().map(|address| address.parse().unwrap()).collect());
        self.pools.resolve_all(&mut HashMap::new()).await;
    }

    fn replicas(&self) -> Vec<(String, u64)> {
        let replicas = &self.pool.members().replicas;
        replicas.iter().map(|replica| (replica.name.to_string(), replica.in_flight())).collect()
    }

    fn in_flight_of(&self, replica: &str) -> Option<String> {
        let series = format!("keymeter_replica_in_flight{{replica=\"{replica}\",upstream=\"pool\"}} ");
        let text = self.metrics.encode().unwrap();
        text.lines().find_map(|line| line.strip_prefix(&series).map(str::to_owned))
    }
}

const HERE: &str = "10.0.0.1:80";
const THERE: &str = "10.0.0.2:80";
const ELSEWHERE: &str = "10.0.0.3:80";
const NAME: &str = "replicas.invalid:80";

fn of(all: &[(&str, u64)]) -> Vec<(String, u64)> {
    all.iter().map(|(name, running)| ((*name).to_owned(), *running)).collect()
}

#[tokio::test]
async fn an_address_that_stays_keeps_what_is_known_of_it_whatever_it_is_called() {
    let scene = Scene::new();
    scene.resolves_to(Some(&[HERE])).await;
    let running = scene.pool.place_now(&Wanted::default(), MonotonicTime::now()).unwrap().unwrap();
    scene.pool.members().replicas[0].set_drained(true);
    assert_eq!(scene.replicas(), of(&[(NAME, 1)]));
    scene.resolves_to(Some(&[HERE, THERE])).await;
    assert_eq!(scene.replicas(), of(&[(HERE, 1), (THERE, 0)]));
    let other = scene.pool.place_now(&Wanted::default(), MonotonicTime::now()).unwrap().unwrap();
    assert_eq!(*other.replica().name, *THERE, "the first is drained");
    assert_eq!((scene.in_flight_of(NAME), scene.in_flight_of(HERE)), (None, Some("1".to_owned())));
    drop(running);
    assert_eq!(scene.in_flight_of(HERE).as_deref(), Some("0"), "what ran before is counted under the new name");
    scene.resolves_to(Some(&[THERE])).await;
    assert_eq!(scene.replicas(), of(&[(NAME, 1)]));
    assert_eq!((scene.in_flight_of(HERE), scene.in_flight_of(THERE)), (None, None));
    drop(other);
    assert_eq!(scene.in_flight_of(NAME).as_deref(), Some("0"));
}

#[tokio::test]
async fn where_nobody_answers_the_last_addresses_serve() {
    let scene = Scene::new();
    scene.resolves_to(None).await;
    assert_eq!(scene.replicas(), of(&[(NAME, 0)]));
    scene.resolves_to(Some(&[HERE, THERE])).await;
    for nothing in [None, Some(&[][..])] {
        scene.resolves_to(nothing).await;
        assert_eq!(scene.replicas(), of(&[(HERE, 0), (THERE, 0)]));
    }
}

#[tokio::test]
async fn what_goes_on_from_an_answer_finds_its_maker_whatever_that_is_called_and_goes_elsewhere_once_it_is_gone() {
    let scene = Scene::new();
    let place = |wanted: &Wanted| scene.pool.place_now(wanted, MonotonicTime::now()).unwrap().unwrap();
    let goes_on = Wanted { previous: Some(7), ..Wanted::default() };
    // Equal ones are taken in turn, so that several in a row show that it is no chance.
    let goes_to = || (0..4).map(|_| place(&goes_on).replica().address.unwrap().to_string()).collect::<Vec<_>>();
    scene.resolves_to(Some(&[HERE])).await;
    place(&Wanted::default()).made(7);
    scene.resolves_to(Some(&[HERE, THERE])).await;
    assert_eq!(goes_to(), [HERE; 4], "it is called by its address now");
    scene.resolves_to(Some(&[THERE])).await;
    assert_eq!(goes_to(), [THERE; 4], "another one may still know what it goes on from");
    scene.resolves_to(Some(&[THERE, ELSEWHERE])).await;
    assert!(goes_to().iter().all(|address| address != HERE));
    scene.resolves_to(Some(&[HERE, THERE])).await;
    assert_eq!(goes_to(), [HERE; 4], "names may be answered with some of their addresses at a time");
}

#[tokio::test]
async fn who_waits_for_a_maker_goes_elsewhere_once_its_address_is_gone() {
    let scene = Scene::with(", max_in_flight: 1");
    scene.resolves_to(Some(&[HERE, THERE])).await;
    let now = MonotonicTime::now();
    let first = scene.pool.place_now(&Wanted::default(), now).unwrap().unwrap();
    first.made(7);
    let goes_on = Wanted { previous: Some(7), ..Wanted::default() };
    assert!(scene.pool.place_now(&goes_on, now).is_none(), "it waits for its maker");
    let (pool, maker) = (scene.pool.clone(), first.replica().address.unwrap().to_string());
    let waiting = tokio::spawn(async move { pool.wait(goes_on, now, MonotonicTime::now).await });
    while scene.pool.queue(now).0 == 0 {
        tokio::task::yield_now().await;
    }
    let other = if maker == HERE { THERE } else { HERE };
    scene.resolves_to(Some(&[other])).await;
    assert_eq!(waiting.await.unwrap().unwrap().replica().address.unwrap().to_string(), other);
}
