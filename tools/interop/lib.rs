//! Nothing: the tests are all there is. See tools/test.mjs.
