//! Syslog over TCP and UDP.

use std::net::SocketAddr;
use std::time::Duration;

use schemas::partition_of;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::harness::{Arrived, Running, World, until};

async fn listening(world: &World, more: &[&str]) -> Running {
    let mut flags =
        vec!["--syslog-tcp", "127.0.0.1:0=demo,127.0.0.1:0=other", "--syslog-udp", "127.0.0.1:0=other"];
    flags.extend(more);
    world.ready(&flags).await
}

/// Sends a stream and closes it.
async fn send(address: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    // Ingest closes once the messages are safe.
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn both_framings_of_tcp_arrive_with_the_listeners_org() {
    let world = World::new().await;
    let ingest = listening(&world, &[]).await;
    send(
        ingest.syslog_tcp[0],
        b"<34>1 - h a - - - one\r\n<34>Oct  1 22:14:15 h a: two\n17 <34>1 - h\na - - 313 <34>four five",
    )
    .await;
    send(ingest.syslog_tcp[1], b"<34>other\n").await;
    let arrived = world.events().await;
    ingest.stop().await;
    let mut found: Vec<_> = arrived.iter().map(|a| (a.org.as_str(), a.text())).collect();
    found.sort();
    let expected = [
        ("demo", "<34>1 - h\na - - 3"),
        ("demo", "<34>1 - h a - - - one"),
        ("demo", "<34>Oct  1 22:14:15 h a: two"),
        ("demo", "<34>four five"),
        ("other", "<34>other"),
    ];
    assert_eq!(found, expected.map(|(org, text)| (org, text.to_owned())));
    for a in &arrived {
        assert_eq!((a.protocol.as_str(), a.format.as_str()), ("syslog_tcp", "syslog"));
        assert!(a.sender.starts_with("syslog_tcp:") && a.sender.ends_with("/127.0.0.1"), "{}", a.sender);
        assert_eq!(a.partition, partition_of(&[a.org.as_bytes(), a.sender.as_bytes()], 4));
    }
}

#[tokio::test]
async fn a_stream_that_ends_inside_a_message_is_passed_on_as_far_as_it_came() {
    let world = World::new().await;
    let ingest = listening(&world, &[]).await;
    send(ingest.syslog_tcp[0], b"7 <34>one\n200 <34>cut off").await;
    send(ingest.syslog_tcp[0], b"<34>two\n<34>no line feed").await;
    ingest.stop().await;
    let mut found: Vec<_> = world.events().await.iter().map(|a| (a.text(), a.format.clone())).collect();
    found.sort();
    let expected = [
        ("<34>cut off", "syslog_truncated"),
        ("<34>no line feed", "syslog"),
        ("<34>one", "syslog"),
        ("<34>two", "syslog"),
    ];
    assert_eq!(found, expected.map(|(text, format)| (text.to_owned(), format.to_owned())));
}

#[tokio::test]
async fn a_message_too_large_arrives_cut_and_its_neighbours_whole() {
    let world = World::new().await;
    let ingest = listening(&world, &[]).await;
    let stream = format!("<34>one\n<34>{}\n300000 <34>{}<34>two\n", "x".repeat(5 << 20), "y".repeat(299_996));
    send(ingest.syslog_tcp[0], stream.as_bytes()).await;
    ingest.stop().await;
    let mut sizes: Vec<_> = world.events().await.iter().map(|a| a.bytes.len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [7, 7, 256 * 1024 + 1, 256 * 1024 + 1]);
}

#[tokio::test]
async fn datagrams_are_messages() {
    let world = World::new().await;
    let ingest = listening(&world, &[]).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let large = format!("<34>{}", "x".repeat(60_000));
    for message in ["<34>one", "<34>two\n\0", "", "\n", &large, "not syslog at all"] {
        socket.send_to(message.as_bytes(), ingest.syslog_udp[0]).await.unwrap();
    }
    let texts = world.texts_once(4).await;
    ingest.stop().await;
    assert_eq!(texts, ["<34>one", "<34>two", &large, "not syslog at all"]);
    let arrived = world.events().await;
    assert!(arrived.iter().all(|a| a.org == "other" && a.protocol == "syslog_udp"));
}

#[tokio::test]
async fn a_hundred_thousand_messages_over_a_few_connections_arrive_once_and_in_order() {
    let world = World::new().await;
    let ingest = listening(&world, &[]).await;
    let address = ingest.syslog_tcp[0];
    let senders = (0..4).map(|connection| async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        for hundred in 0..250 {
            let lines: String = (0..100)
                .map(|n| format!("<34>1 - h a - - - {connection} {:06}\n", hundred * 100 + n))
                .collect();
            stream.write_all(lines.as_bytes()).await.unwrap();
        }
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    });
    futures::future::join_all(senders).await;
    ingest.stop().await;
    let arrived: Vec<_> = world.events().await.iter().map(Arrived::text).collect();
    assert_eq!(arrived.len(), 100_000);
    for connection in 0..4 {
        let prefix = format!("<34>1 - h a - - - {connection} ");
        let numbers: Vec<u32> =
            arrived.iter().filter_map(|text| text.strip_prefix(&prefix)?.parse().ok()).collect();
        assert_eq!(numbers, (0..25_000).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn messages_wait_for_a_broker_that_is_away() {
    let world = World::without_topics().await;
    let ingest =
        world.ingest(&["--syslog-tcp", "127.0.0.1:0=demo", "--syslog-udp", "127.0.0.1:0=demo"]).await;
    let mut stream = TcpStream::connect(ingest.syslog_tcp[0]).await.unwrap();
    stream.write_all(b"<34>tcp\n").await.unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(b"<34>udp", ingest.syslog_udp[0]).await.unwrap();
    world.create_topics().await;
    assert_eq!(world.texts_once(2).await, ["<34>tcp", "<34>udp"]);
    drop(stream);
    ingest.stop().await;
}

#[tokio::test]
async fn a_stop_takes_along_what_has_been_sent() {
    let world = World::new().await;
    let ingest = listening(&world, &[]).await;
    let mut stream = TcpStream::connect(ingest.syslog_tcp[0]).await.unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    stream.write_all(b"<34>a\n").await.unwrap();
    world.texts_once(1).await;
    stream.write_all(&b"<34>b\n".repeat(1_000)).await.unwrap();
    for _ in 0..100 {
        socket.send_to(b"<34>c", ingest.syslog_udp[0]).await.unwrap();
    }
    ingest.stop().await;
    let texts = world.texts().await;
    let count = |text: &str| texts.iter().filter(|t| *t == text).count();
    assert_eq!((count("<34>a"), count("<34>b"), count("<34>c")), (1, 1_000, 100));
}

#[tokio::test]
async fn idle_and_surplus_connections_are_closed() {
    let world = World::new().await;
    let ingest =
        listening(&world, &["--syslog-idle-timeout", "500ms", "--syslog-max-connections", "1"]).await;
    let mut first = TcpStream::connect(ingest.syslog_tcp[0]).await.unwrap();
    let mut second = TcpStream::connect(ingest.syslog_tcp[0]).await.unwrap();
    let closed = |read: std::io::Result<usize>| matches!(read, Ok(0) | Err(_));
    let started = std::time::Instant::now();
    assert!(closed(second.read(&mut [0]).await));
    assert!(started.elapsed() < Duration::from_millis(400));
    assert!(closed(first.read(&mut [0]).await));
    until("there is room again", async || {
        let mut third = TcpStream::connect(ingest.syslog_tcp[0]).await.unwrap();
        tokio::time::timeout(Duration::from_millis(100), third.read(&mut [0])).await.is_err()
    })
    .await;
    ingest.stop().await;
}
