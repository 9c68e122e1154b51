import type { JSX } from 'preact'
import { useState } from 'preact/hooks'
import type { Setting, Settings as Answer } from '../api/broker_types'
import { useApi } from '../api/use'
import { t } from '../texts'
import { Badge, Card, Empty, Gaps, Heading, Loading, Notice, Search, Segments, Table, type Column } from '../ui/kit'

const LONG = 100

function Value({ value }: { value: unknown }): JSX.Element {
  if (value === null || value === undefined || value === '') return <span class="quiet-text">{t.settings.nothing}</span>
  if (typeof value !== 'object') return <code>{String(value)}</code>
  const text = JSON.stringify(value)
  return text.length < LONG ? <code>{text}</code> : <pre class="payload" tabIndex={0}>{JSON.stringify(value, null, 1)}</pre>
}

const COLUMNS: Column<Setting>[] = [
  { head: t.settings.key, cell: one => <><code class="strong">{one.key}</code>{one.description && <small>{one.description}</small>}</> },
  {
    head: t.settings.value,
    cell: one => (
      <>
        <Value value={one.value} />
        {Object.entries(one.differs).map(([node, value]) => <div key={node}><Badge>{node}</Badge> <Value value={value} /></div>)}
      </>
    )
  },
  { head: t.settings.default, minor: true, cell: one => one.is_default ? <span class="quiet-text">{t.settings.isDefault}</span> : <Value value={one.default} /> }
]

export function Settings(): JSX.Element {
  const { data, error } = useApi<Answer>('settings', {}, 15_000)
  const [search, setSearch] = useState('')
  const [which, setWhich] = useState<'changed' | 'all'>('changed')
  const wanted = search.toLowerCase()
  const items = (data?.items ?? []).filter(one =>
    (which === 'all' || !one.is_default || Object.keys(one.differs).length > 0) &&
    (!wanted || one.key.toLowerCase().includes(wanted) || one.description.toLowerCase().includes(wanted)))
  return (
    <>
      <Heading title={t.nav.settings} lead={t.settings.lead} />
      <div class="bar">
        <Segments label={t.settings.which} value={which} onChange={setWhich} options={[['changed', t.settings.changed], ['all', t.settings.all]]} />
        <Search label={t.settings.search} value={search} onInput={setSearch} />
      </div>
      <Gaps missing={data?.missing} error={error} stale={Boolean(data)} />
      {Object.entries(data?.problems ?? {}).map(([node, text]) => <Notice key={node} tone="error" title={node}> {text}</Notice>)}
      {Object.entries(data?.restart_needed ?? {}).filter(([, keys]) => keys.length > 0).map(([node, keys]) => (
        <Notice key={node} tone="info" title={t.settings.restart(node)}> <code>{keys.join(', ')}</code></Notice>
      ))}
      {!data && !error && <Loading />}
      {data && <div class="settings"><Card flush>
        <Table name={t.nav.settings} columns={COLUMNS} items={items} id={one => one.key}
          empty={<Empty title={t.settings.none}>{which === 'changed' ? t.settings.noneChanged : t.settings.noneFound}</Empty>} />
      </Card></div>}
    </>
  )
}
