import { RoomsError } from '../errors.js'
import type { Store } from './runtime.js'

const DATABASE = 'iroh-rooms'
const TABLE = 'saved'

/** IndexedDB: an entry for each name or id, of this origin. */
export const store: Store = {
  locate(key, path) {
    if (path === undefined) return key
    throw new RoomsError('INVALID_ARGUMENT', "persist: there are no files here: use 'local'")
  },

  read: (location) =>
    inTable('readonly', (table) => table.get(location) as IDBRequest<Uint8Array | undefined>),

  async write(location, bytes) {
    await inTable('readwrite', (table) => table.put(bytes, location))
  },

  async setAside(location) {
    const aside = `${location}.unusable-${Date.now()}`
    const bytes = await store.read(location)
    await inTable('readwrite', (table) => {
      table.put(bytes, aside)
      return table.delete(location)
    })
    return `'${aside}' in the IndexedDB '${DATABASE}'`
  },
}

/** Runs one request in a transaction and closes the database: no page keeps another from anything. */
async function inTable<T>(
  mode: IDBTransactionMode,
  work: (table: IDBObjectStore) => IDBRequest<T>,
): Promise<T> {
  const opening = indexedDB.open(DATABASE, 1)
  opening.addEventListener('upgradeneeded', () => opening.result.createObjectStore(TABLE))
  const database = await done(opening)
  try {
    const transaction = database.transaction(TABLE, mode)
    const request = work(transaction.objectStore(TABLE))
    await new Promise<void>((resolve, reject) => {
      transaction.addEventListener('complete', () => resolve())
      transaction.addEventListener('abort', () => reject(failure(transaction.error)))
    })
    return request.result
  } finally {
    database.close()
  }
}

function done<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.addEventListener('success', () => resolve(request.result))
    request.addEventListener('error', () => reject(failure(request.error)))
  })
}

function failure(cause: DOMException | null): RoomsError {
  return new RoomsError('INTERNAL', `IndexedDB failed: ${cause?.message ?? 'no reason given'}`, {
    cause,
  })
}
