/**
 * Pumps: a stream of the core to its data port, while the reader gives credit; and the writes of a
 * track from its data port to the core, acknowledged.
 */
import type { ErrorData } from '../src/errors.js'
import type { BroadcastHandle, GroupHandle, StreamHandle, TrackHandle } from './core-module.js'
import type { StreamDown, StreamUp, TrackDown, TrackUp } from './protocol.js'

/** Items asked for at once: enough to spread a message's cost, little enough to start early. */
const BATCH_ITEMS = 256
/** Bytes asked for at once. A batch has one item more than fits, if it would have none. */
const BATCH_BYTES = 1 << 20

/** What the pumps need of their surroundings. */
export interface PumpHost {
  /** Makes plain data of what the core threw, and notices when the instance is broken. */
  toData(thrown: unknown): ErrorData
}

/** Serves one reader until the stream ends, fails or is cancelled. Resolves when it has let go. */
export async function pumpStream(
  host: PumpHost,
  port: MessagePort,
  open: () => Promise<StreamHandle> | StreamHandle,
): Promise<void> {
  const reader = new Credit(port)
  let stream: StreamHandle
  try {
    stream = await open()
  } catch (thrown) {
    reader.post({ t: 'err', error: host.toData(thrown) })
    reader.close()
    return
  }
  reader.onCancel(() => {
    try {
      stream.cancel()
    } catch {
      // The instance is broken: whoever broke it has said so.
    }
  })
  try {
    for (;;) {
      if (!(await reader.granted())) break
      const { items, done } = await stream.nextBatch(
        Math.min(reader.items, BATCH_ITEMS),
        Math.min(reader.bytes, BATCH_BYTES),
      )
      if (items.length > 0) reader.send(items)
      if (done) {
        reader.post({ t: 'end' })
        break
      }
    }
  } catch (thrown) {
    reader.post({ t: 'err', error: host.toData(thrown) })
  } finally {
    reader.close()
    release(stream)
  }
}

/** The reader's credit, and whether it still reads. */
class Credit {
  readonly #port: MessagePort
  items = 0
  bytes = 0
  #cancelled = false
  #wake: (() => void) | undefined
  #cancel: (() => void) | undefined

  constructor(port: MessagePort) {
    this.#port = port
    port.addEventListener('message', (event: MessageEvent<StreamUp>) => {
      const message = event.data
      if (message.t === 'credit') {
        this.items += message.n
        this.bytes += message.bytes
      } else {
        this.#cancelled = true
        this.#cancel?.()
      }
      this.#wake?.()
    })
    port.start()
  }

  /** Waits for credit; false when the reader has gone. */
  async granted(): Promise<boolean> {
    while (!this.#cancelled && (this.items <= 0 || this.bytes <= 0)) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
    return !this.#cancelled
  }

  onCancel(cancel: () => void): void {
    this.#cancel = cancel
    if (this.#cancelled) cancel()
  }

  /** Sends items; their bytes are the reader's own copy already, so they are moved. */
  send(items: unknown[]): void {
    const buffers = new Set<ArrayBuffer>()
    for (const item of items) {
      const data = (item as { data?: unknown } | null)?.data
      if (!(data instanceof Uint8Array)) continue
      this.bytes -= data.byteLength
      // A view on part of a buffer may share it with others: that one is cloned instead.
      const { buffer } = data
      if (buffer instanceof ArrayBuffer && buffer.byteLength === data.byteLength) {
        buffers.add(buffer)
      }
    }
    this.items -= items.length
    this.post({ t: 'items', v: items }, [...buffers])
  }

  post(message: StreamDown, transfer: Transferable[] = []): void {
    if (!this.#cancelled) this.#port.postMessage(message, transfer)
  }

  close(): void {
    this.#port.close()
  }
}

/** Serves one writer until its track ends on either side. */
export function pumpTrack(
  host: PumpHost,
  port: MessagePort,
  broadcast: BroadcastHandle,
  name: string,
  options: { priority: number; maxAgeMs: number },
): void {
  const track = broadcast.track(name, options)
  const groups = new Map<number, GroupHandle>()
  let ended = false
  const post = (message: TrackDown): void => port.postMessage(message)

  const end = (error: ErrorData | undefined): void => {
    if (ended) return
    ended = true
    for (const group of groups.values()) release(group)
    groups.clear()
    post({ t: 'closed', error })
    port.close()
    release(track)
  }

  const take = (message: TrackUp): void => {
    switch (message.t) {
      case 'write':
        track.write(message.data, message.ts)
        break
      case 'datagram':
        track.datagram(message.data, message.ts)
        break
      case 'group':
        groups.set(message.group, track.group())
        return
      case 'frame':
        groups.get(message.group)?.write(message.data, message.ts)
        break
      case 'group-end': {
        const group = groups.get(message.group)
        groups.delete(message.group)
        if (!group) return
        if (message.code === undefined) group.finish()
        else group.abort(message.code)
        release(group)
        return
      }
      case 'end':
        if (message.code === undefined) track.finish()
        else track.abort(message.code)
        end(undefined)
        return
    }
    post({ t: 'ack', bytes: message.data.byteLength })
  }

  port.addEventListener('message', (event: MessageEvent<TrackUp>) => {
    if (ended) return
    try {
      take(event.data)
    } catch (thrown) {
      end(host.toData(thrown))
    }
  })
  port.start()
  void watchDemand(
    host,
    track,
    () => ended,
    (used) => post({ t: 'demand', used }),
  ).then(end)
}

/** Reports each change of demand; resolves when the track has ended. */
async function watchDemand(
  host: PumpHost,
  track: TrackHandle,
  ended: () => boolean,
  report: (used: boolean) => void,
): Promise<ErrorData | undefined> {
  try {
    for (;;) {
      const used = await track.used()
      if (ended() || !used) return undefined
      report(true)
      await track.unused()
      if (ended()) return undefined
      report(false)
    }
  } catch (thrown) {
    return ended() ? undefined : host.toData(thrown)
  }
}

/** Frees an object of the core. One whose call is still under way is freed by its finalizer. */
export function release(object: { free(): void }): void {
  try {
    object.free()
  } catch {
    // "attempted to take ownership of Rust value while it was borrowed"
  }
}
