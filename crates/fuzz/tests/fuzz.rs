//! What libFuzzer calls. `FUZZ_TARGET` names the target; `npm run fuzz` sets it.
#![cfg_attr(fuzzing, no_main)]

/// Without libFuzzer there is nothing to do.
#[cfg(not(fuzzing))]
fn main() {}

#[cfg(fuzzing)]
mod libfuzzer {
    use std::{env, process::abort, slice, sync::OnceLock};

    use iroh_rooms_fuzz::targets;

    static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

    /// Called once, before everything else. Prints the names of all targets when none is named.
    #[allow(unsafe_code)]
    #[unsafe(no_mangle)]
    extern "C" fn LLVMFuzzerInitialize(_argc: *const i32, _argv: *const *const *const u8) -> i32 {
        let name = env::var("FUZZ_TARGET").unwrap_or_default();
        let Some((_, target)) = targets().find(|(known, _)| *known == name) else {
            for (known, _) in targets() {
                println!("{known}");
            }
            std::process::exit(i32::from(!name.is_empty()));
        };
        TARGET.get_or_init(|| *target);
        // libFuzzer writes the input down when the process aborts; a panic would be caught by nobody.
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            print(panic);
            abort();
        }));
        0
    }

    #[allow(unsafe_code)]
    #[unsafe(no_mangle)]
    extern "C" fn LLVMFuzzerTestOneInput(data: *const u8, size: usize) -> i32 {
        let input = match size {
            0 => &[],
            // SAFETY: libFuzzer lends us that many bytes for the time of this call.
            _ => unsafe { slice::from_raw_parts(data, size) },
        };
        if let Some(target) = TARGET.get() {
            target(input);
        }
        0
    }
}
