use std::task::Poll;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    time::{Duration, Instant, advance, timeout},
};

use super::*;

const TIMEOUTS: ConnectionTimeouts = ConnectionTimeouts {
    head: Duration::from_secs(10),
    keep_alive: Duration::from_secs(75),
    write: Duration::from_mins(1),
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection, of which the client's end is given too.
fn connected(connections: &Arc<Connections>) -> (TimedStream<DuplexStream>, DuplexStream) {
    let (ours, theirs) = duplex(64);
    (TimedStream::new(ours, connections.enter(), None), theirs)
}

fn any_number() -> Arc<Connections> {
    Connections::new(TIMEOUTS, usize::MAX)
}

/// After how many seconds the reader sees the end.
async fn seconds_to_the_end(stream: &mut TimedStream<DuplexStream>) -> u64 {
    let start = Instant::now();
    while timeout(Duration::from_hours(1), stream.read(&mut [0; 64])).await.expect("an end").unwrap() > 0 {}
    start.elapsed().as_secs()
}

#[tokio::test(start_paused = true)]
async fn whoever_never_sends_a_head_has_the_time_of_a_head() {
    for sent in ["", "GET / HTTP/1.1\r\nho"] {
        let (mut stream, mut client) = connected(&any_number());
        client.write_all(sent.as_bytes()).await.unwrap();
        assert_eq!(seconds_to_the_end(&mut stream).await, 10);
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_dribbles_has_no_more() {
    let (mut stream, mut client) = connected(&any_number());
    let dribble = tokio::spawn(async move {
        while client.write_all(b"a").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    assert_eq!(seconds_to_the_end(&mut stream).await, 10);
    drop(stream);
    dribble.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_that_runs_has_all_time_and_what_follows_has_its_own() {
    let (mut stream, mut client) = connected(&any_number());
    let connection = stream.connection().clone();
    connection.begin_request();
    assert!(timeout(Duration::from_mins(10), stream.read(&mut [0])).await.is_err());
    connection.end_request();
    assert!(timeout(Duration::from_secs(70), stream.read(&mut [0])).await.is_err());
    client.write_all(b"G").await.unwrap();
    assert_eq!(seconds_to_the_end(&mut stream).await, 10);
    connection.begin_request();
    connection.end_request();
    assert_eq!(seconds_to_the_end(&mut stream).await, 75);
}

/// What waits for the client is another task than the one that answers a request.
#[tokio::test(start_paused = true)]
async fn a_reader_that_waits_already_hears_that_no_request_runs_any_more() {
    for preface in [&b""[..], PREFACE] {
        let (mut stream, mut client) = connected(&any_number());
        client.write_all(preface).await.unwrap();
        let running = stream.connection().run_request();
        let waiting = tokio::spawn(async move { seconds_to_the_end(&mut stream).await });
        tokio::time::sleep(Duration::from_secs(20)).await;
        drop(running);
        assert_eq!(waiting.await.unwrap(), 20 + 75);
    }
}

/// One request ends while another begins: whichever is first, the other runs.
#[test]
fn a_request_that_begins_as_another_ends_is_not_taken_for_none() {
    const ROUNDS: usize = 100_000;
    let connection = any_number().enter().connection().clone();
    std::thread::scope(|scope| {
        scope.spawn(|| (0..ROUNDS).for_each(|_| drop(connection.run_request())));
        for _ in 0..ROUNDS {
            let running = connection.run_request();
            assert_eq!(connection.deadline(None), None);
            drop(running);
        }
    });
}

/// Pings are no requests.
#[tokio::test(start_paused = true)]
async fn a_connection_of_http2_without_streams_is_told_to_leave_and_ends_whatever_it_sends() {
    for pings in [false, true] {
        let (mut stream, mut client) = connected(&any_number());
        let connection = stream.connection().clone();
        let mut closing = connection.closing.subscribe();
        client.write_all(PREFACE).await.unwrap();
        let sends = tokio::spawn(async move {
            while !pings || client.write_all(&[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]).await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let (first, second) = (connection.run_request(), connection.run_request());
        drop(first);
        let all = async { while stream.read(&mut [0; 64]).await.unwrap() > 0 {} };
        assert!(timeout(Duration::from_mins(10), all).await.is_err());
        drop(second);
        let start = Instant::now();
        let told = async {
            closing.wait_for(|closing| *closing).await.unwrap();
            start.elapsed().as_secs()
        };
        let (told, ended) = tokio::join!(told, seconds_to_the_end(&mut stream));
        // A connection that does not speak is told; one that does hears it a moment after.
        assert!((75..=76).contains(&told), "{told}");
        assert!((told + 9..=told + 11).contains(&ended), "{ended}");
        sends.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn half_a_head_of_http2_ends_the_connection_though_others_run() {
    let (mut stream, mut client) = connected(&any_number());
    let _running = stream.connection().run_request();
    client.write_all(PREFACE).await.unwrap();
    client.write_all(&[0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82]).await.unwrap();
    assert_eq!(seconds_to_the_end(&mut stream).await, 10);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_is_cut_and_one_that_reads_a_little_is_not() {
    let (mut stream, mut client) = connected(&any_number());
    let start = Instant::now();
    assert_eq!(stream.write_all(&[0; 1000]).await.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    assert_eq!(start.elapsed(), TIMEOUTS.write);
    let reads = tokio::spawn(async move {
        while client.read(&mut [0]).await.is_ok_and(|length| length > 0) {
            tokio::time::sleep(Duration::from_secs(30)).await;
        }
    });
    assert!(timeout(Duration::from_mins(100), stream.write_all(&[0; 1000])).await.is_err());
    drop(stream);
    reads.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_longest_idle_makes_room_and_none_that_is_busy() {
    let connections = Connections::new(TIMEOUTS, 3);
    let mut all = Vec::new();
    for _ in 0..3 {
        let open = connections.place().await.taken();
        let (ours, theirs) = duplex(64);
        all.push((TimedStream::new(ours, open, None), theirs));
    }
    // The second was used longest ago, then the first; the third is.
    for (number, (stream, _)) in all.iter().enumerate() {
        stream.connection().begin_request();
        if number < 2 {
            stream.connection().end_request();
        }
    }
    advance(Duration::from_secs(1)).await;
    all[0].0.connection().begin_request();
    all[0].0.connection().end_request();

    for leaves in [1, 0] {
        let mut place = std::pin::pin!(connections.place());
        assert!(futures_util::poll!(place.as_mut()).is_pending());
        let ended: Vec<_> = all.iter().map(|(stream, _)| stream.connection().is_evicted()).collect();
        assert!(ended[leaves] && !ended[2], "{ended:?}");
        assert!(futures_util::poll!(place.as_mut()).is_pending(), "it takes no second one's");
        assert_eq!(all[leaves].0.read(&mut [0]).await.unwrap(), 0);
        drop(std::mem::replace(&mut all[leaves], connected(&any_number())));
        let place = place.await;
        let (ours, theirs) = duplex(64);
        all[leaves] = (TimedStream::new(ours, place.taken(), None), theirs);
    }
    assert_eq!(connections.open(), 3);
    // Now all are at work, or have not begun: the next one has to wait until one ends.
    let mut place = std::pin::pin!(connections.place());
    assert!(timeout(Duration::from_secs(5), place.as_mut()).await.is_err());
    all[2].0.connection().end_request();
    assert!(futures_util::poll!(place.as_mut()).is_pending());
    assert_eq!(all[2].0.read(&mut [0]).await.unwrap(), 0);
    all.truncate(2);
    assert!(matches!(futures_util::poll!(place), Poll::Ready(_)));
}
