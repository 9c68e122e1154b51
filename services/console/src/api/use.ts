// What a screen asks for: fetched again and again, and kept while it cannot be had.
import { useCallback, useEffect, useRef, useState } from 'preact/hooks'
import { ApiError, get, me, reachable, type Query } from './client'
import type { Page } from './types'

export interface Polled<T> {
  data: T | undefined
  error: ApiError | undefined
  /** When the data came, unix time. */
  at: number
  refresh: () => void
}

const SLOWEST_MS = 15_000

function asApiError(error: unknown): ApiError {
  return error instanceof ApiError ? error : new ApiError(0, 'unknown', String(error))
}

/** Call ``read`` now and every ``every`` ms; slower while it fails, not at all while the page is hidden. */
export function usePolling<T>(
  read: (signal: AbortSignal) => Promise<T>, every: number, dependencies: unknown[]
): Polled<T> {
  const [state, setState] = useState<{ data?: T, error?: ApiError, at: number }>({ at: 0 })
  const again = useRef<() => void>(() => undefined)
  useEffect(() => {
    const abort = new AbortController()
    let timer: ReturnType<typeof setTimeout> | undefined
    let failures = 0
    let running = false
    const run = async (): Promise<void> => {
      clearTimeout(timer)
      if (running || abort.signal.aborted) return
      running = true
      try {
        const data = await read(abort.signal)
        failures = 0
        if (!abort.signal.aborted) setState({ data, at: Date.now() / 1000 })
      } catch (error) {
        failures += 1
        if (!abort.signal.aborted) setState(old => ({ ...old, error: asApiError(error) }))
      }
      running = false
      const wait = failures ? Math.min(1000 * 2 ** failures, SLOWEST_MS) : every
      if (!abort.signal.aborted && !document.hidden && me.value) timer = setTimeout(() => void run(), wait)
    }
    const seen = (): void => { if (!document.hidden) void run() }
    again.current = () => void run()
    void run()
    const unsubscribe = reachable.subscribe(is => { if (is && failures) setTimeout(() => void run(), 200) })
    document.addEventListener('visibilitychange', seen)
    return () => {
      abort.abort()
      clearTimeout(timer)
      unsubscribe()
      document.removeEventListener('visibilitychange', seen)
    }
  }, dependencies)
  return {
    data: state.data, error: state.error, at: state.at, refresh: useCallback(() => again.current(), [])
  }
}

export function useApi<T>(path: string, query: Query = {}, every = 5000): Polled<T> {
  return usePolling<T>(signal => get<T>(path, query, signal), every, [path, JSON.stringify(query), every])
}

export interface Listed<T> extends Polled<Page<T>> {
  more: (() => void) | undefined
  busy: boolean
}

const LIMIT = 100
const MOST_LOOKS = 20

/** Read pages until ``wanted`` entries are there: a search may give short pages although there are more. */
async function readUntil<T>(
  path: string, query: Query, after: string | null, wanted: number, signal?: AbortSignal
): Promise<Page<T>> {
  const found: Page<T> = { items: [], next: after, missing: [] }
  for (let look = 0; look < MOST_LOOKS; look += 1) {
    const page = await get<Page<T>>(path, { ...query, after: found.next, limit: LIMIT }, signal)
    found.items.push(...page.items)
    found.next = page.next ?? null
    found.missing = [...new Set([...found.missing, ...page.missing ?? []])]
    if (!found.next || found.items.length >= wanted) break
  }
  return found
}

/** A list in pages: the first page is fetched again and again until the reader asks for more. */
export function useList<T>(path: string, query: Query = {}, every = 5000): Listed<T> {
  const key = path + JSON.stringify(query)
  const [extra, setExtra] = useState<{ key: string, page: Page<T> } | undefined>()
  const [busy, setBusy] = useState(false)
  const frozen = extra?.key === key
  const first = usePolling<Page<T>>(
    signal => readUntil<T>(path, query, null, LIMIT / 2, signal), frozen ? 3_600_000 : every, [key, frozen && 1]
  )
  const data = frozen ? extra.page : first.data
  const more = async (): Promise<void> => {
    if (!data?.next) return
    setBusy(true)
    try {
      const page = await readUntil<T>(path, query, data.next, LIMIT)
      const missing = [...new Set([...data.missing, ...page.missing])]
      setExtra({ key, page: { items: [...data.items, ...page.items], next: page.next, missing } })
    } catch {
      // The banner says that the console is away; the button stays.
    }
    setBusy(false)
  }
  const refresh = (): void => {
    setExtra(undefined)
    first.refresh()
  }
  return { ...first, data, refresh, busy, more: data?.next ? () => void more() : undefined }
}
