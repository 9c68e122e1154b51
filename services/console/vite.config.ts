// How the page is built: into the Python package, with names that carry a hash of the content.
import { defineConfig } from 'vite'

export default defineConfig({
  // Relative, so that the page works below a path of an Ingress.
  base: './',
  oxc: { jsx: { runtime: 'automatic', importSource: 'preact' } },
  build: {
    outDir: '../tidegate/console/web/static',
    emptyOutDir: true,
    target: 'es2022',
    // The Content-Security-Policy allows no data: scripts and no inline styles.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false }
  },
  server: {
    proxy: { '/api': { target: process.env['TIDEGATE_CONSOLE'] ?? 'http://127.0.0.1:18080' } }
  }
})
