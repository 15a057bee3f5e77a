//! Server-sent events of any API.

#![no_main]

use keymeter_core::usage::Form;
use keymeter_fuzz::every_endpoint;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| every_endpoint(data, Form::Sse, |_, _, _| {}));
