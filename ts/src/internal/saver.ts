/** Keeps the state of a room on this machine, and finds it again. */
import { RoomsError } from '../errors.js'
import { runtime } from '#runtime'

/** A change is on disk at most so long after it was made, in ms; further ones go with it. */
const SAVE_MS = 500

/** Where a state is kept. */
export class Place {
  /** A name or an id; undefined for a room that has none yet. */
  readonly #key: string | undefined
  readonly #path: string | undefined

  constructor(key: string | undefined, path: string | undefined) {
    this.#key = key
    this.#path = path
  }

  /** What is kept there, if anything. */
  async read(): Promise<Uint8Array | undefined> {
    if (this.#key === undefined && this.#path === undefined) {
      throw new RoomsError(
        'INVALID_ARGUMENT',
        "restore: this room has no name, and its id is new: give the id of the room that was kept (restore: '<id>'), or a file (persist: { path })",
      )
    }
    return runtime.store.read(this.#location(''))
  }

  write(id: string, bytes: Uint8Array): Promise<void> {
    return runtime.store.write(this.#location(id), bytes)
  }

  /** The error to throw: what could not be restored is put aside first, so the next start is free. */
  async explain(error: unknown): Promise<unknown> {
    if (!RoomsError.is(error, 'INVALID_ARGUMENT') || !error.message.startsWith('restore: ')) {
      return error
    }
    const aside = await runtime.store.setAside(this.#location(''))
    return new RoomsError(
      'INVALID_ARGUMENT',
      `${error.message}. It was put aside as ${aside}; without it the room can be created anew`,
      { cause: error },
    )
  }

  #location(id: string): string {
    return runtime.store.locate(this.#key ?? id, this.#path)
  }
}

/** The place that the option `persist` means, for a room of this name. */
export function placeOf(
  persist: 'local' | { readonly path: string } | undefined,
  name: string | undefined,
): Place | undefined {
  if (persist === undefined) return undefined
  return new Place(name, persist === 'local' ? undefined : persist.path)
}

/** Writes after changes, one write at a time. */
export class Saver {
  readonly #place: Place
  readonly #id: string
  readonly #saved: () => Promise<Uint8Array>
  readonly #failed: (error: unknown) => void
  #timer: ReturnType<typeof setTimeout> | undefined
  #writing: Promise<void> = Promise.resolve()

  constructor(
    place: Place,
    id: string,
    saved: () => Promise<Uint8Array>,
    failed: (error: unknown) => void,
  ) {
    this.#place = place
    this.#id = id
    this.#saved = saved
    this.#failed = failed
    this.soon()
  }

  soon(): void {
    this.#timer ??= setTimeout(() => void this.flush(), SAVE_MS)
  }

  /** Writes what is not written yet. Never rejects. */
  flush(): Promise<void> {
    if (this.#timer !== undefined) {
      clearTimeout(this.#timer)
      this.#timer = undefined
      this.#writing = this.#writing.then(() => this.#write()).catch(this.#failed)
    }
    return this.#writing
  }

  async #write(): Promise<void> {
    await this.#place.write(this.#id, await this.#saved())
  }
}
