import type { JSX } from 'preact'
import { useEffect, useState } from 'preact/hooks'
import type { ClientSummary } from '../api/types'
import { useApi, useList } from '../api/use'
import { count } from '../format'
import { href, replaceQuery, route } from '../route'
import { t } from '../texts'
import { Age, Badge, Card, Empty, Gaps, Heading, Loading, More, Search, Segments, Table, type Column } from '../ui/kit'

type State = 'all' | 'connected' | 'offline'

export function StateBadge({ state }: { state: 'connected' | 'offline' }): JSX.Element {
  return <Badge tone={state === 'connected' ? 'ok' : 'quiet'} dot>{t.states[state]}</Badge>
}

export function ClientLink({ id, mountPoint = '' }: { id: string, mountPoint?: string }): JSX.Element {
  return <a class="strong break" href={href(['clients', id], { mount_point: mountPoint })}>{id}</a>
}

/** Follows what is typed a moment later, so that each letter is no search. */
export function useSettled<T>(value: T, wait = 250): T {
  const [settled, setSettled] = useState(value)
  useEffect(() => {
    const timer = setTimeout(() => { setSettled(value) }, wait)
    return () => { clearTimeout(timer) }
  }, [JSON.stringify(value)])
  return settled
}

export function since(connection: { since: string | number } | null | undefined): number | undefined {
  if (!connection) return undefined
  return typeof connection.since === 'number' ? connection.since : Date.parse(connection.since) / 1000
}

const COLUMNS: Column<ClientSummary>[] = [
  {
    head: t.clients.client,
    cell: one => <><ClientLink id={one.client_id} mountPoint={one.mount_point} />
      {one.mount_point && <small>{t.clients.mountPoint(one.mount_point)}</small>}</>
  },
  {
    head: t.clients.state,
    cell: one => <><StateBadge state={one.state} />{one.connection?.slow && <> <Badge tone="warning">{t.clients.slow}</Badge></>}</>
  },
  { head: t.clients.user, cell: one => one.user || <span class="quiet-text">{t.clients.anonymous}</span> },
  {
    head: t.clients.at,
    cell: one => one.connection
      ? <>{one.connection.edge}<small>{one.connection.listener} · {one.connection.address}</small></>
      : <span class="quiet-text">{one.ends_at ? <>{t.clients.ends} <Age at={one.ends_at} /></> : '–'}</span>
  },
  { head: t.clients.version, minor: true, cell: one => one.connection?.version ?? '–' },
  { head: t.clients.subscriptions, right: true, minor: true, cell: one => count(one.subscriptions) },
  { head: t.clients.queued, right: true, cell: one => count(one.queued) },
  { head: t.clients.since, right: true, cell: one => <Age at={since(one.connection)} /> }
]

export function Clients(): JSX.Element {
  const query = route.value.query
  const [filter, setFilter] = useState({
    prefix: query.get('prefix') ?? '', user: query.get('user') ?? '', address: query.get('address') ?? '',
    listener: query.get('listener') ?? ''
  })
  const [state, setState] = useState<State>((query.get('state') as State | null) ?? 'all')
  const asked = useSettled({ ...filter, state })
  useEffect(() => {
    replaceQuery({ ...asked, state: asked.state === 'all' ? undefined : asked.state })
  }, [JSON.stringify(asked)])
  const list = useList<ClientSummary>('clients', asked)
  const narrowed = Object.values(filter).some(Boolean) || state !== 'all'
  const set = (name: keyof typeof filter) => (event: { currentTarget: HTMLInputElement }): void => {
    setFilter({ ...filter, [name]: event.currentTarget.value })
  }
  return (
    <>
      <Heading title={t.nav.clients} lead={t.clients.lead} />
      <div class="bar">
        <Segments label={t.clients.state} value={state} onChange={setState}
          options={[['all', t.clients.all], ['connected', t.states.connected], ['offline', t.states.offline]]} />
        <Search label={t.clients.search} value={filter.prefix} onInput={prefix => { setFilter({ ...filter, prefix }) }} />
        <input aria-label={t.clients.user} placeholder={t.clients.user} value={filter.user} onInput={set('user')} />
        <input aria-label={t.clients.address} placeholder={t.clients.address} value={filter.address} onInput={set('address')} />
        <Listeners value={filter.listener} onChange={listener => { setFilter({ ...filter, listener }) }} />
      </div>
      <Gaps missing={list.data?.missing} error={list.error} stale={Boolean(list.data)} />
      <Card flush>
        {list.data ? (
          <Table name={t.nav.clients} columns={COLUMNS} items={list.data.items} id={one => `${one.mount_point}\n${one.client_id}`}
            empty={narrowed ? <Empty title={t.clients.noMatch}>{t.clients.noMatchHint}</Empty>
              : <Empty title={t.clients.none}>{t.clients.noneHint}</Empty>} />
        ) : !list.error && <Loading />}
        <More more={list.more} busy={list.busy} shown={list.data?.items.length ?? 0} />
      </Card>
    </>
  )
}

function Listeners({ value, onChange }: { value: string, onChange: (value: string) => void }): JSX.Element {
  const { data } = useApi<{ items: { name: string }[] }>('listeners', {}, 60_000)
  const names = [...new Set(data?.items.map(one => one.name))]
  return (
    <>
      <input aria-label={t.clients.listener} placeholder={t.clients.listener} list="listener-names" value={value}
        onInput={event => { onChange(event.currentTarget.value) }} />
      <datalist id="listener-names">{names.map(name => <option key={name} value={name} />)}</datalist>
    </>
  )
}
