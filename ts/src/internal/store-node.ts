import { mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'

import type { Store } from './runtime.js'

const FOLDER = '.iroh-rooms'

/** Files: `.iroh-rooms/<name or id>.room` in the working directory, or where the application says. */
export const store: Store = {
  locate: (key, path) => path ?? join(FOLDER, `${encodeURIComponent(key)}.room`),

  async read(location) {
    try {
      return await readFile(location)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
      throw error
    }
  },

  /** The old file stays whole until the new one is. */
  async write(location, bytes) {
    await mkdir(dirname(location), { recursive: true })
    const temporary = `${location}.${process.pid}.tmp`
    await writeFile(temporary, bytes)
    await rename(temporary, location)
  },

  async setAside(location) {
    const aside = `${location}.unusable-${Date.now()}`
    await rename(location, aside)
    return aside
  },
}
