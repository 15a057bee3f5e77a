//! At which figures a test runs: small ones within generous bounds, or those of `make soak`, where nothing runs beside it.

pub fn is_soak() -> bool {
    std::env::var_os("KEYMETER_SOAK").is_some()
}

/// The figure that holds: how often something is done, or how long it may take.
pub fn scaled<T>(normally: T, at_soak: T) -> T {
    if is_soak() { at_soak } else { normally }
}
