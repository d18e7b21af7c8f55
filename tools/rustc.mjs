#!/usr/bin/env node
// What cargo runs for each crate of the workspace when it builds the module: rustc, which in the last
// step, with all crates at hand, inlines nothing more. Each crate has inlined what is its own; beyond that
// it makes the module 23 KB larger after brotli, and cargo has no setting for that step alone.
import { spawnSync } from 'node:child_process'

const [rustc, ...args] = process.argv.slice(2)
const isModule = args.includes('cdylib')
const added = isModule ? ['-Cllvm-args=-inline-threshold=-20000'] : []
const { status } = spawnSync(rustc, [...args, ...added], { stdio: 'inherit' })
process.exitCode = status ?? 1
