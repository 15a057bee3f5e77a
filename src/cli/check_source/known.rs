//! The checks of the service's record of a known key, and of its renewal.

use http::{HeaderMap, HeaderValue, StatusCode, header};
use keymeter_core::key::{KeyHash, KeyState};

use super::{
    Examiner, SECRET,
    caller::{Reply, came, has_status},
    report::{Report, Verdict},
};
use crate::keys::{
    EntityTag,
    http::{record, tag},
    service::max_age,
};

const RECORD: &str = "a known hash";
/// The checks of the answer's head.
const HEAD: [&str; 4] = ["its Content-Type", "its Cache-Control", "its ETag, sent back", "another ETag"];

impl Examiner {
    pub(super) async fn examine_known(&self, report: &mut Report) {
        let skip = |report: &mut Report, check, why: &str| report.line(check, &Verdict::Skipped(why.to_owned()));
        let Some(hash) = self.known else {
            let why = format!("set {SECRET} to the secret of a working key");
            return [RECORD].into_iter().chain(HEAD).for_each(|check| skip(report, check, &why));
        };
        let url = self.caller.service.url_of(&hash);
        let reply = self.caller.ask(&url, self.caller.token(), None).await;
        report.line(RECORD, &is_record(&reply, &hash));
        let Some(Reply { headers, .. }) = reply.ok().filter(|reply| reply.status == StatusCode::OK) else {
            return HEAD.into_iter().for_each(|check| skip(report, check, "it needs a 200 to a known hash"));
        };
        let (renewed, changed) = (self.renews(&url, &headers).await, self.notices_a_change(&url, &headers).await);
        let verdicts = [content_type(&headers), cache_control(&headers), renewed, changed];
        HEAD.into_iter().zip(verdicts).for_each(|(check, verdict)| report.line(check, &verdict));
    }

    /// Whether a gateway that has the record is told so, and not sent it again.
    async fn renews(&self, url: &str, headers: &HeaderMap) -> Verdict {
        let Some(EntityTag(tag)) = tag(headers) else {
            return Verdict::Doubtful(
                "there is no ETag of up to 256 bytes: the whole record is sent each time".to_owned(),
            );
        };
        has_status(self.caller.ask(url, self.caller.token(), Some(&tag)).await, &[304])
    }

    /// Whether a gateway that has another version of the record is sent this one.
    async fn notices_a_change(&self, url: &str, headers: &HeaderMap) -> Verdict {
        if tag(headers).is_none() {
            return Verdict::Skipped("there is no ETag".to_owned());
        }
        let another = HeaderValue::from_static("\"keymeter-check\"");
        has_status(self.caller.ask(url, self.caller.token(), Some(&another)).await, &[200])
    }
}

fn is_record(reply: &Result<Reply, String>, hash: &KeyHash) -> Verdict {
    let expected = "200 with the key's record";
    let reply = match reply {
        Ok(reply) if reply.status == StatusCode::OK => reply,
        reply => return Verdict::wrong(expected, came(reply.as_ref().map(|reply| reply.status).map_err(Clone::clone))),
    };
    match record(&reply.body, hash) {
        Ok((record, _)) if record.state == KeyState::Active => {
            Verdict::Right(format!("200, the record of {}", record.id))
        }
        Ok((record, _)) => {
            Verdict::Doubtful(format!("200, but {} is not active: {SECRET} is to be a working key's", record.id))
        }
        Err(why) => Verdict::wrong(expected, format!("200, but {why}")),
    }
}

fn content_type(headers: &HeaderMap) -> Verdict {
    let stated = headers.get(header::CONTENT_TYPE).map_or("", |kind| kind.to_str().unwrap_or("?"));
    match stated.split(';').next().map(str::trim) {
        Some(kind) if kind.eq_ignore_ascii_case("application/json") => Verdict::Right(stated.to_owned()),
        _ => Verdict::Doubtful(format!("it should be application/json, and is `{stated}`")),
    }
}

fn cache_control(headers: &HeaderMap) -> Verdict {
    let values = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let stated = values.collect::<Vec<_>>().join(", ");
    match max_age(headers).map(|age| age.as_secs()) {
        Some(0) => Verdict::Doubtful(format!("`{stated}`: every request with the key waits for the service")),
        Some(seconds) => Verdict::Right(format!("believed for {seconds} s, or `key_cache.ttl` where that is less")),
        None if stated.to_ascii_lowercase().split([',', ' ']).any(|word| word.starts_with("max-age")) => {
            Verdict::wrong("max-age=<seconds>", format!("`{stated}`"))
        }
        None => Verdict::Right("it states no max-age: believed for `key_cache.ttl`".to_owned()),
    }
}
