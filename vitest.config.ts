import { existsSync } from 'node:fs'

import { playwright } from '@vitest/browser-playwright'
import { type ViteUserConfig, defineConfig } from 'vitest/config'

/** What is waited for comes soon; on a busy machine not always within vitest's one second. */
const poll = { poll: { timeout: 10_000 } }
const chromium = process.env['CHROMIUM'] ?? '/usr/bin/chromium'

const config: ViteUserConfig = defineConfig({
  test: {
    projects: [
      {
        test: {
          name: 'node',
          testTimeout: 15_000,
          expect: poll,
          environment: 'node',
          include: ['ts/test/unit/**/*.test.ts', 'ts/test/node/**/*.test.ts'],
          globalSetup: ['ts/test/support/global-setup.ts'],
        },
      },
      {
        test: {
          name: 'chromium',
          testTimeout: 15_000,
          expect: poll,
          include: ['ts/test/chromium/**/*.test.ts'],
          globalSetup: ['ts/test/support/global-setup.ts'],
          browser: {
            enabled: existsSync(chromium),
            headless: true,
            screenshotFailures: false,
            provider: playwright({
              launchOptions: {
                executablePath: chromium,
                args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking'],
              },
            }),
            instances: [{ browser: 'chromium' }],
          },
        },
      },
      {
        test: {
          name: 'e2e',
          environment: 'node',
          include: ['ts/test/e2e/**/*.test.ts'],
          // What is noticed within seconds is not to wait for the tabs of another file.
          fileParallelism: false,
        },
      },
    ],
  },
})

export default config
