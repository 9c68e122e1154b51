// Where the reader is: a path and a query in the fragment, so that a page can be kept and sent.
import { signal } from '@preact/signals'

export interface Route {
  path: string[]
  query: URLSearchParams
}

export function parse(fragment: string): Route {
  const [path = '', query = ''] = fragment.replace(/^#\/?/, '').split('?', 2)
  return { path: path.split('/').filter(Boolean).map(decode), query: new URLSearchParams(query) }
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part)
  } catch {
    return part
  }
}

export function href(path: string[], query: Record<string, string | undefined> = {}): string {
  const pairs = Object.entries(query).filter((pair): pair is [string, string] => Boolean(pair[1]))
  const search = new URLSearchParams(pairs).toString()
  return '#/' + path.map(encodeURIComponent).join('/') + (search ? `?${search}` : '')
}

/** The token that `tidegate serve` puts into the address: it is taken away from there at once. */
export function takeToken(): string | undefined {
  const token = new URLSearchParams(location.hash.replace(/^#\/?/, '')).get('token') ?? undefined
  if (token) replace([])
  return token
}

export const route = signal<Route>(parse(globalThis.location?.hash ?? ''))

export function follow(): void {
  addEventListener('hashchange', () => { route.value = parse(location.hash) })
}

export function go(path: string[], query: Record<string, string | undefined> = {}): void {
  location.hash = href(path, query)
}

/** Change the query without a new entry in the history: a filter that is being typed. */
export function replaceQuery(query: Record<string, string | undefined>): void {
  // The reader may have gone elsewhere already; the event that says so comes later.
  if (parse(location.hash).path.join('/') !== route.value.path.join('/')) return
  replace(route.value.path, query)
}

export function replace(path: string[], query: Record<string, string | undefined> = {}): void {
  history.replaceState(null, '', href(path, query))
  route.value = parse(location.hash)
}
