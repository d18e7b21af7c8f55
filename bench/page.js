// One tab of the benchmark: the same measures for every Side. `?kind=rooms` says which.
//
// A Side is the least that a library must do to take part:
//   open({ server, invite, ... })  start, and meet in what `invite` names; gives the invitation
//   start({ server, ... })         what can be done before `open`; optional
//   met()                          resolves when the other tab can be spoken to
//   say(text), heard(text)         a short text to the other tab, and what to call with one from it
//   blast(size, goesOn)            send frames of so many bytes for as long as `goesOn()`
//   receive(size), got(bytes)      get ready for them, and what to call with the size of each
//   seen(count)                    resolves when so many others are known to be there; for `growth`
//   links()                        connections with others, and bytes of these if it counts them; for `growth`
//   left()                         what to call when the other tab is noticed to be gone
//   marks                          the steps of its way in, as performance.now() of each
//   steps()                        completes them afterwards; optional

const kind = new URLSearchParams(location.search).get('kind')
const Side = kind === 'blank' ? undefined : (await import(`/target/bench/${kind}.js`)).Side
const side = Side && new Side()

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const epoch = () => performance.timeOrigin + performance.now()

let going = false
let leftAt
let onLeft = () => {}
let onText = () => {}
let onFrame = () => {}

if (side) {
  side.left = () => {
    leftAt ??= epoch()
    onLeft()
  }
  // The one that was first answers everything.
  side.heard = (text) => {
    if (text.startsWith('ping ')) void side.say(`pong ${text.slice(5)}`)
    else onText(text)
  }
  side.got = (bytes) => onFrame(bytes)
}

async function trip(name) {
  const begun = performance.now()
  const pong = new Promise((resolve) => {
    onText = (text) => text.startsWith(`pong ${name} `) && resolve()
  })
  await side.say(`ping ${name} `.padEnd(200, 'x'))
  await pong
  return performance.now() - begun
}

globalThis.bench = {
  side,
  /** All that live in this tab: the first, and those that `share` adds. */
  sides: [side],

  /** One more of the kind, beside the others; gives its place among them. */
  share() {
    return bench.sides.push(new Side()) - 1
  },

  /** The first one in. */
  async host(options) {
    const begun = performance.now()
    const invite = await side.open(options)
    return { invite, ...since(begun) }
  },

  /** The newcomer: from its first call until an answer of the other one is here. */
  async join(options) {
    const begun = performance.now()
    await side.open(options)
    await side.met()
    const met = performance.now()
    await trip('first')
    const answered = performance.now()
    await side.steps?.()
    side.marks = { ...side.marks, met, answered }
    return { ms: answered - begun, ...since(begun) }
  },

  /** One of many: when it began, and then when so many others were there. */
  async gather(options) {
    const begun = epoch()
    return { begun, invite: await side.open(options) }
  },

  async gathered(count) {
    await side.seen(count)
    return epoch()
  },

  async trips(count) {
    const trips = []
    for (let n = 0; n < count; n++) trips.push(await trip(n))
    return trips
  },

  /** MB/s of what arrives in `ms`, which begin `warmMs` after the first frame. */
  async receive({ size, warmMs, ms }) {
    let bytes = 0
    let first
    const begun = new Promise((resolve) => {
      onFrame = (length) => {
        if (length !== size) return
        first ??= resolve()
        bytes += length
      }
    })
    await side.receive?.(size)
    await begun
    await wait(warmMs)
    const [from, at] = [bytes, performance.now()]
    await wait(ms)
    const result = (bytes - from) / (performance.now() - at) / 1000
    return { result, bytes }
  },

  async blast(size) {
    going = true
    await side.blast(size, () => going)
  },

  async stamp() {
    going = true
    await side.stamp(() => going)
  },

  /** Ends the blast, or the stamps. */
  stop() {
    going = false
  },

  /** Resolves when nothing came for a while. */
  async silence() {
    let last = performance.now()
    onFrame = () => (last = performance.now())
    while (performance.now() - last < 250) await wait(50)
  },

  /** When the other tab was noticed to be gone, in ms since 1970. */
  async left() {
    if (leftAt === undefined) await new Promise((resolve) => (onLeft = resolve))
    return leftAt
  },

  now: epoch,

  /** Keeps the processor busy, by which the tab's process is recognised. */
  spin(ms) {
    const end = performance.now() + ms
    while (performance.now() < end);
  },
}

/** The steps of the way in, as ms after its begin. */
function since(begun) {
  const marks = Object.entries(side.marks ?? {}).map(([name, at]) => [name, at - begun])
  return { marks: Object.fromEntries(marks) }
}

globalThis.isReady = true
