//! Changed files are noticed by themselves, however they are changed.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use super::{OTHER_SECRET, SUCCESSFUL, status_with, two_keys, upstream};
use crate::support::{
    client::PATIENCE,
    gateway::{Gateway, SECRET, config, one_key, replace},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_noticed_however_it_is_written() {
    let upstream = upstream().await;
    let gateway = Gateway::before(&upstream);
    gateway.write_keys(&two_keys("", ""));
    becomes(&gateway, OTHER_SECRET, 200).await;
    std::fs::write(gateway.keys_path(), one_key("")).unwrap();
    becomes(&gateway, OTHER_SECRET, 401).await;
    gateway.write_config(&config(&upstream, "limits: {requests_per_minute: 1}"));
    becomes(&gateway, SECRET, 429).await;
    std::fs::write(gateway.path(), config(&upstream, "")).unwrap();
    becomes(&gateway, SECRET, 200).await;

    gateway.write_keys("keys: [}\n");
    gateway.metric_becomes(SUCCESSFUL, 0.0).await;
    assert_eq!(status_with(&gateway, SECRET).await, 200);
    gateway.write_keys(&two_keys("", ""));
    gateway.metric_becomes(SUCCESSFUL, 1.0).await;
    assert_eq!(status_with(&gateway, OTHER_SECRET).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_the_configuration_newly_names_is_watched_too() {
    let upstream = upstream().await;
    let gateway = Gateway::before(&upstream);
    let elsewhere = tempfile::tempdir().unwrap();
    let keys = elsewhere.path().join("other.yaml");
    replace(&keys, &two_keys("", ""));
    let named = format!("path: {}", keys.display());
    gateway.write_config(&config(&upstream, "").replace("path: keys.yaml", &named));
    becomes(&gateway, OTHER_SECRET, 200).await;
    replace(&keys, &one_key(""));
    becomes(&gateway, OTHER_SECRET, 401).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_noticed_in_a_directory_that_is_never_quiet() {
    let upstream = upstream().await;
    let gateway = Gateway::before(&upstream);
    let log = gateway.directory.path().join("access.log");
    let writer = tokio::spawn(async move {
        loop {
            tokio::fs::write(&log, "a line\n").await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    gateway.write_keys(&two_keys("", ""));
    becomes(&gateway, OTHER_SECRET, 200).await;
    writer.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_swapped_as_kubernetes_does_are_noticed_each_time() {
    let upstream = upstream().await;
    let gateway = Gateway::before(&upstream);
    let mount = gateway.directory.path().to_owned();
    let configuration = std::fs::read_to_string(gateway.path()).unwrap();
    swap(&mount, "..2026_01", &configuration, &one_key(""));
    for name in ["keymeter.yaml", "keys.yaml"] {
        std::fs::remove_file(mount.join(name)).unwrap();
        std::os::unix::fs::symlink(Path::new("..data").join(name), mount.join(name)).unwrap();
    }
    for (number, (keys, status)) in
        [(two_keys("", ""), 200), (one_key(""), 401), (two_keys("", ""), 200)].into_iter().enumerate()
    {
        swap(&mount, &format!("..2026_02_{number}"), &configuration, &keys);
        becomes(&gateway, OTHER_SECRET, status).await;
    }
    swap(&mount, "..2026_03", &format!("{configuration}limits: {{requests_per_minute: 1}}\n"), &one_key(""));
    becomes(&gateway, SECRET, 429).await;
}

/// What the kubelet does with a new version of a volume: a new directory, a new link to it
/// renamed over the old one, and the former directory removed.
fn swap(mount: &Path, directory: &str, configuration: &str, keys: &str) {
    std::fs::create_dir(mount.join(directory)).unwrap();
    std::fs::write(mount.join(directory).join("keymeter.yaml"), configuration).unwrap();
    std::fs::write(mount.join(directory).join("keys.yaml"), keys).unwrap();
    let former = std::fs::read_link(mount.join("..data")).ok();
    std::os::unix::fs::symlink(directory, mount.join("..data_tmp")).unwrap();
    std::fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
    if let Some(former) = former {
        std::fs::remove_dir_all(mount.join(former)).unwrap();
    }
}

async fn becomes(gateway: &Gateway, secret: &str, status: u16) {
    let start = Instant::now();
    while status_with(gateway, secret).await != status {
        assert!(start.elapsed() < PATIENCE, "the change was not noticed");
        // Fewer bad keys in a second than a stranger may send.
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
}
