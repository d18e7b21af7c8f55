/** Tells the Worker what happens to the page. Does nothing where there is none. */
import type { Link } from './link.js'

/** How long a page that goes away is kept busy, so that the Worker's goodbye gets out. */
const GOODBYE_MS = 50
/**
 * And where a room with a doorman is open: what the goodbye asks for has to be agreed on by the others
 * while this page is still there, or they have to wait until its silence is certain.
 */
const AGREED_GOODBYE_MS = 250

/** Forwards the page's events until the returned function is called. */
export function watchPage(link: Link): () => void {
  if (typeof document === 'undefined' || typeof addEventListener === 'undefined') {
    return () => undefined
  }
  const stop = new AbortController()
  const options = { signal: stop.signal }
  addEventListener('pagehide', () => goodbye(link), options)
  addEventListener(
    'pageshow',
    (event) => {
      // Back out of the back-forward cache: join again.
      if (event.persisted) link.lifecycle('resumed')
    },
    options,
  )
  document.addEventListener(
    'visibilitychange',
    () => link.lifecycle(document.visibilityState === 'hidden' ? 'hidden' : 'visible'),
    options,
  )
  document.addEventListener('freeze', () => link.lifecycle('frozen'), options)
  document.addEventListener('resume', () => link.lifecycle('resumed'), options)
  return () => stop.abort()
}

function goodbye(link: Link): void {
  link.lifecycle('leaving')
  // A page that is closed takes its Worker along at once, most often before it has sent anything.
  const until = performance.now() + (link.answering ? AGREED_GOODBYE_MS : GOODBYE_MS)
  while (performance.now() < until);
}
