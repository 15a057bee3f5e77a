//! The hooks of Pingora's trait, read from the source that this build is made of, beside those
//! that are forwarded: an upgrade that adds one must not switch it off for the proxy within.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use serde_json::Value;

/// Hooks that a build has only with this feature of `pingora-proxy`, which ours is without: code
/// that forwards them would not compile.
const FEATURE: &str = "upstream_modules";
const ONLY_WITH_THE_FEATURE: [&str; 2] = ["adjust_upstream_modules", "init_upstream_modules"];

/// A method, and the condition under which it is compiled.
type Method<'source> = (&'source str, Option<&'source str>);

/// The hooks that `Gated` forwards.
pub(super) fn forwarded() -> BTreeSet<&'static str> {
    let methods = methods(include_str!("../forward.rs"), "impl<P> ProxyHttp for Gated<P>");
    methods.into_iter().map(|(name, condition)| (condition.is_none().then_some(name)).expect(name)).collect()
}

#[test]
fn every_hook_of_the_pinned_trait_is_forwarded() {
    let (source, features) = pinned_trait();
    let (always, sometimes): (Vec<_>, Vec<_>) =
        methods(&source, "pub trait ProxyHttp").into_iter().partition(|(_, condition)| condition.is_none());
    assert_eq!(forwarded(), always.into_iter().map(|(name, _)| name).collect());

    let condition = format!("feature = \"{FEATURE}\")]");
    let excepted: BTreeSet<_> = ONLY_WITH_THE_FEATURE.map(|name| (name, Some(condition.as_str()))).into();
    assert_eq!(excepted, sometimes.into_iter().collect());
    assert!(!features.contains(FEATURE), "{FEATURE} is on: forward {ONLY_WITH_THE_FEATURE:?} too");
}

#[test]
fn methods_are_found_with_their_conditions() {
    let source = "
trait Other {
    fn other();
}

pub trait Hooks {
    type CTX;

    /// fn commented();
    fn plain(&self);

    #[cfg(feature = \"f\")]
    #[doc(hidden)]
    async fn conditional<T>(
        &self,
        #[cfg(unix)] descriptor: u8,
    ) {
        fn within() {}
    }

    async fn last(&self) {}
}

fn after() {}
";
    let found = methods(source, "pub trait Hooks");
    assert_eq!(found, [("plain", None), ("conditional", Some("feature = \"f\")]")), ("last", None)]);
}

/// The methods in the block of a formatted source that begins with `opening`.
fn methods<'source>(source: &'source str, opening: &str) -> Vec<Method<'source>> {
    let (_, block) = source.split_once(opening).expect(opening);
    let (block, _) = block.split_once("\n}\n").expect("the block ends");
    let mut condition = None;
    let mut methods = Vec::new();
    for line in block.lines() {
        let declared = line.strip_prefix("    fn ").or_else(|| line.strip_prefix("    async fn "));
        if let Some(declared) = declared {
            let name = declared.split(['(', '<']).next().expect("a split has a first part");
            methods.push((name, condition.take()));
        }
        condition = line.strip_prefix("    #[cfg(").or(condition);
    }
    methods
}

/// The source of the trait in the release that our lock file names, and the features that it is built with.
fn pinned_trait() -> (String, BTreeSet<String>) {
    let metadata = metadata();
    let is_proxy = |package: &&Value| package["name"] == "pingora-proxy";
    let packages: Vec<_> = metadata["packages"].as_array().unwrap().iter().filter(is_proxy).collect();
    let [package] = packages[..] else { panic!("one release of pingora-proxy, not {}", packages.len()) };
    let mut nodes = metadata["resolve"]["nodes"].as_array().unwrap().iter();
    let node = nodes.find(|node| node["id"] == package["id"]).expect("what is built is resolved");
    let features = node["features"].as_array().unwrap().iter().map(|feature| feature.as_str().unwrap().to_owned());
    let manifest = Path::new(package["manifest_path"].as_str().unwrap());
    let source = fs::read_to_string(manifest.with_file_name("src").join("proxy_trait.rs"));
    (source.expect("the trait's source"), features.collect())
}

/// What is built on this machine: only that is sure to have been fetched.
fn metadata() -> Value {
    let version = cargo(&["-vV"]);
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("cargo knows its host");
    let arguments = ["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", host];
    serde_json::from_str(&cargo(&arguments)).unwrap()
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
