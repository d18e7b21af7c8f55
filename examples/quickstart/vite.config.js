export default {
  // The quickstart uses the package of the clone that it is part of.
  server: { host: '127.0.0.1', fs: { allow: ['../..'] } },
  // Needed by Vite 7 and older only.
  optimizeDeps: { exclude: ['iroh-rooms'] },
}
