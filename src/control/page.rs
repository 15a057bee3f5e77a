//! Keys in a browser.
