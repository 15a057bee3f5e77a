//! The trace of a request's caller, in the headers of W3C Trace Context. Invalid headers are ignored: the request then begins its
//! own trace.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

use crate::headers::header_value;

pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(super) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The span of the caller that a request's headers name; `None`: they name none that can be understood.
#[must_use]
pub fn parent(headers: &HeaderMap) -> Option<SpanContext> {
    let mut stated = headers.get_all(TRACEPARENT).iter();
    let (Some(only), None) = (stated.next(), stated.next()) else { return None };
    let (trace, span, flags) = read(only.as_bytes())?;
    Some(SpanContext::new(trace, span, flags, true, state(headers)))
}

/// The headers by which `context` is named to whom a request is sent to. Those without a value are not to be sent.
#[must_use]
pub fn written(context: &SpanContext) -> [(HeaderName, Option<HeaderValue>); 2] {
    let (trace, span, flags) = (context.trace_id(), context.span_id(), context.trace_flags() & TraceFlags::SAMPLED);
    let parent = header_value(format!("00-{trace}-{span}-{flags:02x}"));
    let state = Some(context.trace_state().header()).filter(|state| !state.is_empty()).map(header_value);
    [(TRACEPARENT, Some(parent)), (TRACESTATE, state)]
}

/// What must be passed on, by the recommendation; spans that wait hold it.
const LONGEST_STATE: usize = 512;

/// What systems of others have to say of the trace: all or nothing, as they may rely on its order.
fn state(headers: &HeaderMap) -> TraceState {
    let lines = headers.get_all(TRACESTATE).iter().map(HeaderValue::to_str).collect::<Result<Vec<_>, _>>();
    let lines = lines.ok().map(|lines| lines.join(",")).filter(|lines| lines.len() <= LONGEST_STATE);
    lines.and_then(|lines| lines.parse().ok()).unwrap_or_default()
}

/// `version-trace-span-flags`, in lower-case hexadecimal digits.
fn read(text: &[u8]) -> Option<(TraceId, SpanId, TraceFlags)> {
    let (first, rest) = text.split_at_checked(LENGTH)?;
    let parts: Vec<&[u8]> = first.split(|byte| *byte == b'-').collect();
    let [version, trace, span, flags] = parts.as_slice() else { return None };
    let version = number(version, 2)?;
    // A later version may have more to say, after a hyphen; version 255 there is none.
    let may_be_longer = (1..255).contains(&version) && rest.first() == Some(&b'-');
    if version == 255 || !(rest.is_empty() || may_be_longer) {
        return None;
    }
    let (trace, span) = (number(trace, 32)?, u64::try_from(number(span, 16)?).ok()?);
    // Of the flags we know the first.
    let flags = if number(flags, 2)? & 1 == 1 { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
    (trace != 0 && span != 0).then_some((TraceId::from(trace), SpanId::from(span), flags))
}

const LENGTH: usize = 2 + 1 + 32 + 1 + 16 + 1 + 2;

/// So many digits.
fn number(digits: &[u8], length: usize) -> Option<u128> {
    if digits.len() != length {
        return None;
    }
    digits.iter().try_fold(0_u128, |number, digit| match digit {
        b'0'..=b'9' => Some(number << 4 | u128::from(digit - b'0')),
        b'a'..=b'f' => Some(number << 4 | u128::from(digit - b'a' + 10)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_state_that_is_longer_than_must_be_passed_on_is_left_out() {
        let parent = format!("00-{TRACE}-{SPAN}-01");
        for (length, is_kept) in [(LONGEST_STATE, true), (LONGEST_STATE + 1, false)] {
            let members = format!("a={},b={}", "x".repeat(256), "y".repeat(length - 256 - 5));
            assert_eq!(members.len(), length);
            let context = super::parent(&headers(&[(TRACEPARENT, &parent), (TRACESTATE, &members)])).unwrap();
            assert_eq!(context.trace_state().header() == members, is_kept, "{length}");
        }
    }

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    fn headers(lines: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn of(text: &str) -> Option<SpanContext> {
        parent(&headers(&[(TRACEPARENT, text)]))
    }

    #[test]
    fn a_caller_is_named_by_its_trace_span_and_decision() {
        for (text, sampled) in [
            (format!("00-{TRACE}-{SPAN}-01"), true),
            (format!("00-{TRACE}-{SPAN}-00"), false),
            (format!("00-{TRACE}-{SPAN}-03"), true),
            (format!("00-{TRACE}-{SPAN}-fe"), false),
            (format!("cc-{TRACE}-{SPAN}-01"), true),
            (format!("cc-{TRACE}-{SPAN}-01-what-the-future-brings"), true),
        ] {
            let parent = of(&text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((parent.trace_id().to_string(), parent.span_id().to_string()), (TRACE.into(), SPAN.into()));
            assert_eq!((parent.is_sampled(), parent.is_remote()), (sampled, true), "{text}");
        }
    }

    #[test]
    fn what_is_not_by_the_letter_names_nobody() {
        let (no_trace, no_span) = ("0".repeat(32), "0".repeat(16));
        for text in [
            String::new(),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-+1"),
            format!("00-{TRACE}-{SPAN}-0x"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("00-{TRACE}-{SPAN}-011"),
            format!("cc-{TRACE}-{SPAN}-01.more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("0-0{TRACE}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{}-01", SPAN.to_uppercase()),
            format!("00-{no_trace}-{SPAN}-01"),
            format!("00-{TRACE}-{no_span}-01"),
            format!("00_{TRACE}_{SPAN}_01"),
            format!("00-{TRACE}{SPAN}--01"),
        ] {
            assert_eq!(of(&text), None, "{text}");
        }
        let line = format!("00-{TRACE}-{SPAN}-01");
        assert_eq!(parent(&headers(&[(TRACEPARENT, &line), (TRACEPARENT, &line)])), None, "two say two things");
        assert_eq!(parent(&HeaderMap::new()), None);
    }

    #[test]
    fn what_others_say_of_a_trace_goes_on_in_its_order_or_not_at_all() {
        let line = format!("00-{TRACE}-{SPAN}-01");
        let state = |states: &[&str]| {
            let lines: Vec<_> = states.iter().map(|state| (TRACESTATE, *state)).collect();
            let [_, (_, state)] =
                written(&parent(&headers(&[&[(TRACEPARENT, line.as_str())], &lines[..]].concat())).unwrap());
            state.map(|state| state.to_str().unwrap().to_owned())
        };
        assert_eq!(state(&["b=2,a=1"]).as_deref(), Some("b=2,a=1"));
        assert_eq!(state(&["b=2, a=1", "c@d=3"]).as_deref(), Some("b=2,a=1,c@d=3"));
        assert_eq!(state(&[]), None);
        assert_eq!(state(&["no pair", "a=1"]), None);
        assert_eq!(state(&["A=1"]), None);
    }

    proptest! {
        #[test]
        fn any_header_is_read_or_not(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = read(&bytes);
        }

        #[test]
        fn any_near_miss_is_read_or_not(text in "[0-9a-f]{2}-[0-9a-fA-F]{30,33}-[0-9a-f]{15,17}-[0-9a-f-]{1,4}") {
            if let Some((trace, span, _)) = read(text.as_bytes()) {
                prop_assert!(text.contains(&trace.to_string()) && text.contains(&span.to_string()));
            }
        }

        #[test]
        fn what_is_written_is_read(trace in 1..u128::MAX, span in 1..u64::MAX, sampled: bool) {
            let flags = if sampled { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
            let context = SpanContext::new(trace.into(), span.into(), flags, true, TraceState::default());
            let lines = written(&context).into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
            prop_assert_eq!(parent(&lines), Some(context));
        }
    }
}
