// Line icons of 20 × 20, drawn in the colour of the text.
import type { JSX } from 'preact'

const PATHS = {
  overview: 'M3 11h4l2-7 4 12 2-5h2',
  clients: 'M7 9.5a3 3 0 1 0 0-6 3 3 0 0 0 0 6ZM2 17c0-3 2-5 5-5s5 2 5 5M13 4a3 3 0 0 1 0 5.5M14.5 12.4c2.1.5 3.5 2.3 3.5 4.6',
  topics: 'M4 4h5M4 4v11h5M4 9.5h5M12 4h5M12 9.5h5M12 15h5',
  groups: 'M10 3v4M10 7l-5 4M10 7l5 4M10 7v4M5 14.5a1.5 1.5 0 1 0 0-3 1.5 1.5 0 0 0 0 3ZM10 14.5a1.5 1.5 0 1 0 0-3 1.5 1.5 0 0 0 0 3ZM15 14.5a1.5 1.5 0 1 0 0-3 1.5 1.5 0 0 0 0 3Z',
  socket: 'M4 5.5h12v7H9l-3.5 3v-3H4zM7 9h6',
  nodes: 'M3.5 4h13v5h-13zM3.5 11h13v5h-13zM6.5 6.5h.01M6.5 13.5h.01M13 6.5h1M13 13.5h1',
  listeners: 'M10 10.5v6M7 16.5h6M6.8 11.5a4.5 4.5 0 1 1 6.4 0M4.3 13.7a8 8 0 1 1 11.4 0M10 8.5v.01',
  bans: 'M10 17a7 7 0 1 0 0-14 7 7 0 0 0 0 14ZM5 5l10 10',
  audit: 'M6 3h8l2 2v12H4V3zM7 8h6M7 11h6M7 14h3',
  settings: 'M3 6h8M15 6h2M3 14h2M9 14h8M13 8a2 2 0 1 0 0-4 2 2 0 0 0 0 4ZM7 16a2 2 0 1 0 0-4 2 2 0 0 0 0 4Z',
  menu: 'M3 5.5h14M3 10h14M3 14.5h14',
  close: 'M5 5l10 10M15 5L5 15',
  search: 'M8.5 14a5.5 5.5 0 1 0 0-11 5.5 5.5 0 0 0 0 11ZM12.5 12.5L17 17',
  chevron: 'M7.5 5l5 5-5 5',
  plus: 'M10 4v12M4 10h12',
  copy: 'M7 7V4h9v9h-3M4 7h9v9H4z',
  sun: 'M10 13.5a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7ZM10 2v1.5M10 16.5V18M2 10h1.5M16.5 10H18M4.3 4.3l1.1 1.1M14.6 14.6l1.1 1.1M4.3 15.7l1.1-1.1M14.6 5.4l1.1-1.1',
  moon: 'M16 12.2A6.5 6.5 0 0 1 7.8 4a6.5 6.5 0 1 0 8.2 8.2Z',
  auto: 'M10 17a7 7 0 1 0 0-14 7 7 0 0 0 0 14ZM10 3v14M12 4v12M14 5.5v9',
  out: 'M8 4H4v12h4M8 10h9M13.5 6.5L17 10l-3.5 3.5',
  check: 'M4 10.5l4 4 8-9',
  warning: 'M10 3.5l7.5 13h-15zM10 8.5v4M10 14.5v.01',
  error: 'M10 17a7 7 0 1 0 0-14 7 7 0 0 0 0 14ZM10 6.5v4.5M10 13.5v.01',
  info: 'M10 17a7 7 0 1 0 0-14 7 7 0 0 0 0 14ZM10 9.5V14M10 6.5v.01',
  pause: 'M7 4.5v11M13 4.5v11',
  play: 'M6 4l10 6-10 6z',
  trash: 'M4 5.5h12M8 5.5V3.5h4v2M5.5 5.5l.7 11h7.6l.7-11M8.5 8.5v5M11.5 8.5v5',
  download: 'M10 3v10M6 9.5l4 4 4-4M4 17h12',
  lock: 'M5 9.5h10V17H5zM7 9.5V7a3 3 0 0 1 6 0v2.5',
  edit: 'M4 16l.7-3.2L13.5 4l2.5 2.5-8.8 8.8z',
  send: 'M3 10l14-6-5 13-3-5.5z',
  refresh: 'M16 6.5A7 7 0 1 0 17 11M16.5 3v4h-4'
} as const

export type IconName = keyof typeof PATHS

export function Icon({ name, size = 18 }: { name: IconName, size?: number }): JSX.Element {
  return (
    <svg class="icon" width={size} height={size} viewBox="0 0 20 20" fill="none" stroke="currentColor"
      stroke-width="1.5" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  )
}
