/**
 * How a change makes the next state of a room: RFC 7396 and RFC 6902, as `crates/consensus` does it.
 * States are frozen; the next one shares with the last what the change leaves alone.
 */
import type { Json } from '../wire.js'

type Members = { readonly [key: string]: Json }

/** Freezes a value that was just made, all the way down to what is frozen already. */
export function freezeDeep<T>(value: T): T {
  if (typeof value !== 'object' || value === null || Object.isFrozen(value)) return value
  for (const child of Object.values(value)) freezeDeep(child)
  return Object.freeze(value)
}

/** Merges: members that are null are taken out, objects are gone into, the rest is replaced. */
export function mergePatch(target: Json | undefined, change: Json): Json {
  if (!isObject(change)) return change
  const members = new Map(isObject(target) ? Object.entries(target) : [])
  for (const [key, value] of Object.entries(change)) {
    if (value === null) members.delete(key)
    else members.set(key, mergePatch(members.get(key), value))
  }
  // Unlike an assignment this also makes a member of the name `__proto__`.
  return Object.fromEntries(members)
}

/** Applies a JSON patch, as a whole or not at all: throws when an operation cannot be done. */
export function jsonPatch(target: Json, change: Json): Json {
  if (!Array.isArray(change)) throw new Error('a patch is an array')
  return (change as readonly Json[]).reduce(operate, target)
}

function operate(target: Json, operation: Json): Json {
  const member = (name: string): Json => {
    const value = isObject(operation) ? own(operation, name) : undefined
    if (value === undefined) throw new Error(`no ${name}`)
    return value
  }
  const path = pointer(member('path'))
  switch (member('op')) {
    case 'add':
      return add(target, path, member('value'))
    case 'remove':
      return remove(target, path)
    case 'replace':
      find(target, path)
      return put(target, path, member('value'))
    case 'move': {
      const from = pointer(member('from'))
      if (path.length > from.length && from.every((part, i) => part === path[i])) {
        throw new Error('into itself')
      }
      return add(remove(target, from), path, find(target, from))
    }
    case 'copy':
      return add(target, path, find(target, pointer(member('from'))))
    case 'test':
      if (same(find(target, path), member('value'))) return target
      throw new Error('test failed')
    default:
      throw new Error('unknown op')
  }
}

/** The parts of a JSON pointer, RFC 6901. */
function pointer(text: Json): string[] {
  if (text === '') return []
  if (typeof text !== 'string' || !text.startsWith('/')) throw new Error('a pointer begins with /')
  return text
    .slice(1)
    .split('/')
    .map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'))
}

function find(target: Json, path: readonly string[]): Json {
  return path.reduce((value, part) => {
    const found = Array.isArray(value)
      ? (value as readonly Json[])[index(part)]
      : isObject(value)
        ? own(value, part)
        : undefined
    if (found === undefined) throw new Error('nothing there')
    return found
  }, target)
}

function add(target: Json, path: readonly string[], value: Json): Json {
  return inParent(target, path, value, (items, last) => {
    const at = last === '-' ? items.length : index(last)
    if (at > items.length) throw new Error('no such index')
    return items.toSpliced(at, 0, value)
  })
}

/** Puts a value where there is one. */
function put(target: Json, path: readonly string[], value: Json): Json {
  return inParent(target, path, value, (items, last) => items.with(index(last), value))
}

function remove(target: Json, path: readonly string[]): Json {
  find(target, path)
  return inParent(target, path, undefined, (items, last) => items.toSpliced(index(last), 1))
}

/** Changes the parent of what the path leads to; an undefined value takes a member out. */
function inParent(
  target: Json,
  path: readonly string[],
  value: Json | undefined,
  inArray: (items: readonly Json[], last: string) => Json,
): Json {
  const [first, ...rest] = path
  if (first === undefined) return value ?? null
  if (rest.length > 0) {
    const next = inParent(find(target, [first]), rest, value, inArray)
    if (Array.isArray(target)) return (target as readonly Json[]).with(index(first), next)
    return { ...(target as Members), [first]: next }
  }
  if (Array.isArray(target)) return inArray(target as readonly Json[], first)
  if (!isObject(target)) throw new Error('no parent')
  const members = new Map(Object.entries(target))
  if (value === undefined) members.delete(first)
  else members.set(first, value)
  return Object.fromEntries(members)
}

/** An index as a pointer writes it: no sign, no leading zero. */
function index(part: string): number {
  if (!/^(0|[1-9][0-9]*)$/.test(part)) throw new Error('no such index')
  return Number(part)
}

function own(members: Members, key: string): Json | undefined {
  return Object.hasOwn(members, key) ? members[key] : undefined
}

function isObject(value: Json | undefined): value is Members {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function same(a: Json, b: Json): boolean {
  if (Array.isArray(a) && Array.isArray(b)) {
    return a.length === b.length && a.every((item, i) => same(item as Json, b[i] as Json))
  }
  if (!isObject(a) || !isObject(b)) return a === b
  const keys = Object.keys(a)
  return (
    keys.length === Object.keys(b).length &&
    keys.every((key) => Object.hasOwn(b, key) && same(a[key] as Json, b[key] as Json))
  )
}
