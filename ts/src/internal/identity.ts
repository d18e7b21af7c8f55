/**
 * Identity `'tab'`: the secret key lives in sessionStorage, so a reload is the same endpoint. A
 * duplicated tab starts with a copy of the storage; a Web Lock tells the two apart, because a relay
 * serves only the newest of two endpoints with one key.
 */
import { RoomsError } from '../errors.js'
import { key32FromHex, toHex } from './bytes.js'
import { deferred } from './link.js'

const STORAGE_KEY = 'iroh-rooms/identity'
/** A reload may come before the old page has let go of its lock. */
const LOCK_WAIT_MS = 500

export interface Identity {
  /** Undefined: the core makes one. */
  readonly secretKey: Uint8Array | undefined
  /** Lets go of the lock. */
  release(): void
}

interface Stored {
  /** Names the lock; not secret. */
  readonly id: string
  readonly key: Uint8Array
}

/** Resolves the option `identity` of `Live.spawn`. */
export async function resolveIdentity(identity: 'memory' | 'tab' | Uint8Array): Promise<Identity> {
  if (identity === 'tab') return tabIdentity()
  if (identity === 'memory') return { secretKey: undefined, release: () => undefined }
  if (!(identity instanceof Uint8Array) || identity.length !== 32) {
    throw new RoomsError('INVALID_ARGUMENT', "identity is 'memory', 'tab' or 32 bytes")
  }
  return { secretKey: new Uint8Array(identity), release: () => undefined }
}

async function tabIdentity(): Promise<Identity> {
  if (typeof sessionStorage === 'undefined') throw unsupported('sessionStorage')
  if (typeof navigator === 'undefined' || !('locks' in navigator)) throw unsupported('Web Locks')
  const stored = read()
  const release = stored && (await lock(stored.id))
  if (stored && release) return { secretKey: stored.key, release }
  // Nothing stored, or it is in use: by the tab this one was duplicated from, or by another Live.
  const made = { id: randomHex(16), key: crypto.getRandomValues(new Uint8Array(32)) }
  sessionStorage.setItem(STORAGE_KEY, `${made.id}:${toHex(made.key)}`)
  return { secretKey: made.key, release: (await lock(made.id)) ?? (() => undefined) }
}

function read(): Stored | undefined {
  const [id, hex] = (sessionStorage.getItem(STORAGE_KEY) ?? '').split(':')
  const key = key32FromHex(hex ?? '')
  return id && key ? { id, key } : undefined
}

/** Holds a lock until the returned function is called; undefined if somebody else holds it. */
async function lock(id: string): Promise<(() => void) | undefined> {
  const held = deferred<void>()
  const granted = deferred<boolean>()
  navigator.locks
    .request(`${STORAGE_KEY}/${id}`, { signal: AbortSignal.timeout(LOCK_WAIT_MS) }, () => {
      granted.resolve(true)
      return held.promise
    })
    .catch(() => granted.resolve(false))
  return (await granted.promise) ? held.resolve : undefined
}

function randomHex(bytes: number): string {
  return toHex(crypto.getRandomValues(new Uint8Array(bytes)))
}

function unsupported(feature: string): RoomsError {
  return new RoomsError(
    'UNSUPPORTED_RUNTIME',
    `identity 'tab' needs ${feature}, which is missing here (pages need https or localhost): use 'memory' or 32 bytes`,
    { details: { feature } },
  )
}
