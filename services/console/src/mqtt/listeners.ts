// Listeners of this broker that a browser can use, as URLs. Pure.

export interface Listener {
  name: string
  /** tcp, tls, ws, wss, auto */
  protocol: string
  port: number
  path: string
  tls: boolean
  names: string[]
  endsAt: number | undefined
}

const WEB = new Set(['ws', 'wss', 'auto'])

export function forBrowsers(listeners: Listener[]): Listener[] {
  return listeners.filter(one => WEB.has(one.protocol))
}

export function urlOf(listener: Listener, host: string): string {
  const name = host.includes(':') && !host.startsWith('[') ? `[${host}]` : host
  return `${listener.tls ? 'wss' : 'ws'}://${name}:${listener.port}${listener.path || '/mqtt'}`
}

/** The one to begin with: a page that came by TLS may only open secure WebSockets. */
export function best(listeners: Listener[], secure: boolean): Listener | undefined {
  const possible = forBrowsers(listeners)
  return possible.find(one => one.tls === secure) ?? possible[0]
}
