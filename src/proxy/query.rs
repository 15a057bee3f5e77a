//! Gemini's clients may put their key into the query. It is taken out before anything else sees
//! the request's target: a query is logged and forwarded as a credential's header never would be.

use http::{Uri, uri::PathAndQuery};
use keymeter_core::api::{is_key, percent_decoded};
use pingora::http::RequestHeader;

/// Takes `key` out of the request's query. Two that differ are none that could be right, and
/// come as an empty one.
pub(super) fn take_key(request: &mut RequestHeader) -> Option<String> {
    let query = request.uri.query()?;
    let (keys, rest): (Vec<&str>, Vec<&str>) = query.split('&').partition(|pair| is_key(pair));
    let mut values = keys.into_iter().map(|pair| percent_decoded(pair.split_once('=').unwrap_or_default().1));
    let first = values.next()?;
    let key = if values.all(|value| value == first) { first } else { String::new() };
    let target = match rest.join("&") {
        rest if rest.is_empty() => request.uri.path().to_owned(),
        rest => format!("{}?{rest}", request.uri.path()),
    };
    let uri = with_target(&request.uri, &target).unwrap_or_else(|| Uri::from_static("/"));
    request.set_uri(uri);
    Some(key)
}

fn with_target(uri: &Uri, target: &str) -> Option<Uri> {
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(target).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn taken(target: &str) -> (Option<String>, String) {
        let mut request = RequestHeader::build("POST", target.as_bytes(), None).unwrap();
        let key = take_key(&mut request);
        (key, request.uri.to_string())
    }

    #[test]
    fn a_key_is_taken_out_and_the_rest_stays() {
        for (target, key, rest) in [
            ("/a?key=sk-a", Some("sk-a"), "/a"),
            ("/a?alt=sse&key=sk-a", Some("sk-a"), "/a?alt=sse"),
            ("/a?key=sk-a&alt=sse&b=%20", Some("sk-a"), "/a?alt=sse&b=%20"),
            ("/a?%6bey=sk%2Da", Some("sk-a"), "/a"),
            ("/a?key=sk-a&key=sk-a", Some("sk-a"), "/a"),
            ("/a?key=sk-a&key=sk-b", Some(""), "/a"),
            ("/a?key", Some(""), "/a"),
            ("/a?keys=b", None, "/a?keys=b"),
            ("/a", None, "/a"),
        ] {
            assert_eq!(taken(target), (key.map(str::to_owned), rest.to_owned()), "{target}");
        }
    }

    /// A pair of a query, and the key that it has where it is one.
    fn any_pair() -> impl Strategy<Value = (&'static str, Option<&'static str>)> {
        prop::sample::select(vec![
            ("key=sk-a", Some("sk-a")),
            ("key=sk-b", Some("sk-b")),
            ("%6bey=sk%2Da", Some("sk-a")),
            ("%6B%65%79=sk-a", Some("sk-a")),
            ("key==sk-a", Some("=sk-a")),
            ("key", Some("")),
            ("alt=sse", None),
            ("a=key=1", None),
            ("Key=1", None),
            ("keys=1", None),
            ("key%00=1", None),
            ("ke%7=1", None),
            ("=key", None),
            ("key;a=1", None),
        ])
    }

    proptest! {
        /// Whatever else a query has, the key is gone from it and the rest is as it was.
        #[test]
        fn no_key_stays_and_nothing_else_goes(pairs in prop::collection::vec(any_pair(), 0..6)) {
            let target = |pairs: &[&str]| match pairs {
                [] => "/v1beta/models/m:generateContent".to_owned(),
                pairs => format!("/v1beta/models/m:generateContent?{}", pairs.join("&")),
            };
            let all: Vec<&str> = pairs.iter().map(|(pair, _)| *pair).collect();
            let rest: Vec<&str> = pairs.iter().filter(|(_, key)| key.is_none()).map(|(pair, _)| *pair).collect();
            let keys: Vec<&str> = pairs.iter().filter_map(|(_, key)| *key).collect();
            let agreed = keys.first().map(|first| if keys.iter().all(|key| key == first) { first } else { "" });
            prop_assert_eq!(taken(&target(&all)), (agreed.map(str::to_owned), target(&rest)));
            prop_assert_eq!(taken(&target(&rest)), (None, target(&rest)));
        }
    }
}
