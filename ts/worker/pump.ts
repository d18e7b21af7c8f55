/**
 * Pumps: a stream of the core to its data port, while the reader gives credit; and the writes of a
 * track from its data port to the core, acknowledged.
 */
import { type ErrorData, RoomsError } from '../src/errors.js'
import type {
  BroadcastHandle,
  Freeable,
  GroupHandle,
  StreamHandle,
  TrackHandle,
} from './core-module.js'
import type { StreamDown, StreamUp, TrackDown, TrackPost, TrackUp } from './protocol.js'

/** Items asked for at once: enough to spread a message's cost, little enough to start early. */
const BATCH_ITEMS = 256
/** Bytes asked for at once. A batch has one item more than fits, if it would have none. */
const BATCH_BYTES = 1 << 20

/** What the pumps need of their surroundings. */
export interface PumpHost {
  /** Makes plain data of what the core threw, and notices when the instance is broken. */
  toData(thrown: unknown): ErrorData
  /** Counts an object of the core until it is released. */
  hold<T extends Freeable>(object: T): T
  /** Frees an object of the core. Idempotent. */
  release(object: Freeable): void
  /** The data ports that are open. */
  readonly ports: Set<MessagePort>
}

/** Serves one reader until the stream ends, fails or is cancelled. Resolves when it has let go. */
export async function pumpStream(
  host: PumpHost,
  port: MessagePort,
  open: (gone: AbortSignal) => Promise<StreamHandle> | StreamHandle,
): Promise<void> {
  const reader = new Reader(port)
  host.ports.add(port)
  let stream: StreamHandle | undefined
  let cancel: (() => void) | undefined
  try {
    const opened = host.hold(await open(reader.gone))
    stream = opened
    cancel = (): void => opened.cancel()
    reader.gone.addEventListener('abort', cancel)
    while (await reader.granted()) {
      const { items, count, done } = await stream.nextBatch(
        Math.min(reader.items, BATCH_ITEMS),
        Math.min(reader.bytes, BATCH_BYTES),
      )
      if (count > 0) reader.send(items, count)
      if (done) {
        reader.post({ t: 'end' })
        break
      }
    }
  } catch (thrown) {
    reader.post({ t: 'err', error: host.toData(thrown) })
  } finally {
    reader.close()
    host.ports.delete(port)
    // A message may come after the port was closed, and nothing may be asked of what is freed.
    if (cancel) reader.gone.removeEventListener('abort', cancel)
    if (stream) host.release(stream)
  }
}

/** The reader's credit, and whether it still reads. */
class Reader {
  readonly #port: MessagePort
  readonly #gone = new AbortController()
  items = 0
  bytes = 0
  #wake: (() => void) | undefined

  constructor(port: MessagePort) {
    this.#port = port
    port.addEventListener('message', (event: MessageEvent<StreamUp | null>) => {
      const message = event.data
      if (message?.t === 'credit' && amount(message.n) && amount(message.bytes)) {
        this.items += message.n
        this.bytes += message.bytes
      } else {
        // Whoever says anything else than credit does not read any more.
        this.#gone.abort()
      }
      this.#wake?.()
    })
    port.start()
  }

  /** Fires when nobody reads any more. */
  get gone(): AbortSignal {
    return this.#gone.signal
  }

  /** Waits for credit; false when the reader has gone. */
  async granted(): Promise<boolean> {
    while (!this.gone.aborted && (this.items < 1 || this.bytes < 1)) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
    return !this.gone.aborted
  }

  /** Sends items; their bytes are the reader's own copy already, so they are moved. */
  send(items: unknown[] | string, count: number): void {
    const buffers = new Set<ArrayBuffer>()
    for (const item of typeof items === 'string' ? [] : items) {
      const data = (item as { data?: unknown } | null)?.data
      if (!(data instanceof Uint8Array)) continue
      this.bytes -= data.byteLength
      // A view on part of a buffer may share it with others: that one is cloned instead.
      const { buffer } = data
      if (buffer instanceof ArrayBuffer && buffer.byteLength === data.byteLength) {
        buffers.add(buffer)
      }
    }
    this.items -= count
    this.post({ t: 'items', v: items }, [...buffers])
  }

  post(message: StreamDown, transfer: Transferable[] = []): void {
    if (!this.gone.aborted) this.#port.postMessage(message, transfer)
  }

  close(): void {
    this.#port.close()
  }
}

/** What credit may be granted in. */
function amount(value: unknown): boolean {
  return typeof value === 'number' && value >= 0 && Number.isFinite(value)
}

/** Serves one writer until its track ends on either side. */
export function pumpTrack(
  host: PumpHost,
  port: MessagePort,
  broadcast: BroadcastHandle,
  name: string,
  options: { priority: number; maxAgeMs: number },
): void {
  const track = host.hold(broadcast.track(name, options))
  const groups = new Map<number, GroupHandle>()
  let ended = false
  const post = (message: TrackDown): void => port.postMessage(message)
  host.ports.add(port)

  // Writes are acknowledged when the network has taken them: so the writer's `ready` waits for it.
  let [owed, owedBytes, waiting] = [0, 0, false]
  const settle = (): void => {
    if (ended) return
    post({ t: 'ack', n: owed, bytes: owedBytes })
    ;[owed, owedBytes] = [0, 0]
  }
  const acknowledge = (): void => {
    if (ended || waiting || owed === 0) return
    if (track.isReady()) return settle()
    waiting = true
    track.ready().then(
      () => {
        waiting = false
        settle()
      },
      (thrown: unknown) => end(host.toData(thrown)),
    )
  }

  const end = (error: ErrorData | undefined): void => {
    if (ended) return
    ended = true
    for (const group of groups.values()) host.release(group)
    groups.clear()
    post({ t: 'closed', error })
    port.close()
    host.ports.delete(port)
    host.release(track)
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
        if (!groups.has(message.group)) groups.set(message.group, host.hold(track.group()))
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
        host.release(group)
        return
      }
      case 'end':
        if (message.code === undefined) track.finish()
        else track.abort(message.code)
        end(undefined)
        return
      default:
        throw new RoomsError('PROTOCOL', 'the writer said something unknown')
    }
    owed += 1
    owedBytes += message.data.byteLength
  }

  port.addEventListener('message', ({ data }: MessageEvent<TrackPost>) => {
    try {
      for (const message of data.t === 'batch' ? data.v : [data]) {
        if (ended) return
        take(message)
      }
      acknowledge()
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
