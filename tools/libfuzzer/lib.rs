//! Nothing: the library is what the build of libfuzzer-sys leaves. See tools/fuzz.mjs.
