#!/bin/sh
# What cargo runs for each crate of the workspace when it builds the module: rustc, which in the last
# step, with all crates at hand, inlines nothing more. Each crate has inlined what is its own; beyond that
# it makes the module 23 KB larger after brotli, and cargo has no setting for that step alone. A shell's
# `exec` hands on cargo's job server.
case " $* " in
*" cdylib "*) set -- "$@" -Cllvm-args=-inline-threshold=-20000 ;;
esac
exec "$@"
