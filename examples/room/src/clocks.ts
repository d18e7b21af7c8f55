import type { RemoteBroadcast } from 'iroh-rooms'

/** What a terminal peer publishes with `--publish`: short UTF-8 texts, the newest of which counts. */
const TRACK = 'clock'
/** Text of a peer, not a file. */
const TEXT_MAX_BYTES = 256
const READERS_MAX = 64
const utf8 = new TextDecoder()
let readers = 0

/** Calls `onText` with each new text of the broadcast's `clock` track, until it ends. */
export async function followClock(
  broadcast: RemoteBroadcast,
  onText: (text: string) => void,
): Promise<void> {
  if (readers >= READERS_MAX) return
  readers += 1
  try {
    const track = broadcast.track(TRACK, { priority: 0, maxAgeMs: 2_000 })
    for await (const { data } of track.frames()) {
      onText(utf8.decode(data.subarray(0, TEXT_MAX_BYTES)).trim())
    }
  } catch {
    // A broadcast without such a track, or one that ended: there is nothing to show.
  } finally {
    readers -= 1
  }
}
