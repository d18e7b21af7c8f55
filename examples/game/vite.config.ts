import { defineConfig } from 'vite'

export default defineConfig({
  // Relative, so that the built page works from any folder of any web server.
  base: './',
  server: { host: '127.0.0.1' },
  preview: { host: '127.0.0.1' },
  build: { target: 'es2022' },
  // The package starts its Worker and finds its WebAssembly by `new URL(…, import.meta.url)`.
  // Vite 7 and older would break those paths by bundling the package ahead of time.
  optimizeDeps: { exclude: ['iroh-rooms'] },
})
