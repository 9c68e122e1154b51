// The tree of retained messages, one value, and deleting one or many.
import type { JSX } from 'preact'
import { useEffect, useMemo, useState } from 'preact/hooks'
import { ApiError, get, may, post, remove } from '../api/client'
import type { Deletion, RetainedValue, Tree, TreeNode } from '../api/types'
import { useApi } from '../api/use'
import { bytes, count, moment, plural } from '../format'
import { fromBase64 } from '../mqtt/payload'
import { filterProblem } from '../mqtt/topics'
import { href, replaceQuery, route } from '../route'
import { t } from '../texts'
import { attempt, confirmed } from '../ui/act'
import { Dialog } from '../ui/dialog'
import { Icon } from '../ui/icons'
import { Age, Button, Card, Code, Empty, Facts, Gaps, Loading, Notice, Text } from '../ui/kit'
import { Payload } from '../ui/payload'

function Level({ node, chosen, onChoose, version }: {
  node: TreeNode, chosen: string, onChoose: (topic: string) => void, version: number
}): JSX.Element {
  const [open, setOpen] = useState(chosen.startsWith(`${node.topic}/`))
  const below = node.topics - (node.has_value ? 1 : 0)
  const name = node.name === '' ? t.retained.emptyLevel : node.name
  return (
    <li>
      <div class={`tree-row${chosen === node.topic ? ' chosen' : ''}`}>
        <button type="button" class={`toggle${below > 0 ? '' : ' none'}`} aria-expanded={open} aria-label={t.retained.below(name)}
          onClick={() => { setOpen(!open) }}><Icon name="chevron" size={13} /></button>
        <button type="button" class={`level${node.has_value ? ' value' : ''}`} aria-current={chosen === node.topic}
          onClick={() => { if (node.has_value) onChoose(node.topic); else setOpen(!open) }}>
          <span>{name}</span><small>{below > 0 ? count(node.topics) : bytes(node.size_bytes)}</small>
        </button>
      </div>
      {open && below > 0 && <Branch prefix={node.topic} chosen={chosen} onChoose={onChoose} version={version} />}
    </li>
  )
}

function Branch({ prefix, chosen, onChoose, version, top = false }: {
  prefix: string, chosen: string, onChoose: (topic: string) => void, version: number, top?: boolean
}): JSX.Element {
  const { data, error, refresh } = useApi<Tree>('retained/tree', { prefix }, 10_000)
  useEffect(() => { if (version) refresh() }, [version])
  if (!data) return error ? <Gaps error={error} /> : <p class="quiet-text hint">{t.loading}</p>
  return (
    <>
      {top && error && <Gaps error={error} stale />}
      {top && data.children.length === 0 && <Empty title={t.retained.none}>{t.retained.noneHint}</Empty>}
      <ul>
        {data.children.map(node => (
          <Level key={node.topic} node={node} chosen={chosen} onChoose={onChoose} version={version} />
        ))}
      </ul>
      {data.more && <p class="quiet-text">{t.retained.moreLevels}</p>}
      {top && data.is_partial && <p class="quiet-text">{t.retained.partial}</p>}
    </>
  )
}

function Value({ topic, onDeleted }: { topic: string, onDeleted: () => void }): JSX.Element {
  const { data, error } = useApi<RetainedValue>('retained/value', { topic }, 5000)
  const payload = useMemo(() => fromBase64(data?.payload_base64 ?? ''), [data?.payload_base64])
  const texts = t.retained
  const gone = error?.status === 404
  const forget = (): void => {
    void confirmed({ title: texts.deleteTitle, effects: texts.deleteEffects(topic), action: texts.delete },
      async () => await remove('retained', { topic }), texts.deleted(topic)).then(done => { if (done) onDeleted() })
  }
  return (
    <Card title={<Code copy>{topic}</Code>} extra={(
      <>
        <a class="button small" href={href(['topics'], { tab: 'receivers', topic })}>{texts.who}</a>
        {may('operator') && data && !gone && <Button kind="danger" small icon="trash" onClick={forget}>{texts.delete}</Button>}
      </>
    )}>
      {gone ? <Empty title={texts.gone}>{texts.goneHint}</Empty> : <Gaps error={error} stale={Boolean(data)} />}
      {!data && !error && <Loading />}
      {data && !gone && (
        <>
          <Facts items={[
            [texts.received, <span title={moment(data.received_at)}><Age at={data.received_at} /></span>],
            ['QoS', data.qos],
            [texts.expires, data.expires_at ? <Age at={data.expires_at} /> : texts.never],
            ...(data.content_type ? [[texts.contentType, data.content_type] as [string, string]] : []),
            ...(data.response_topic ? [[texts.responseTopic, data.response_topic] as [string, string]] : []),
            ...data.user_properties.map(([name, value]): [string, string] => [name, value])
          ]} />
          <Payload payload={payload} size={data.payload_size_bytes} cut={payload.length < data.payload_size_bytes} />
        </>
      )}
    </Card>
  )
}

function DeletionProgress({ id, onDone }: { id: string, onDone: () => void }): JSX.Element {
  const { data, error } = useApi<Deletion>(`retained/deletions/${encodeURIComponent(id)}`, {}, 700)
  const texts = t.retained
  const over = data && data.state !== 'running'
  useEffect(() => { if (over) onDone() }, [over])
  if (!data) return error ? <Gaps error={error} /> : <Loading />
  return (
    <div class="stack">
      <p>{texts.progress(data.state, data.filter, plural(data.deleted, 'message'))}</p>
      <progress max={1} value={data.progress} aria-label={texts.progressLabel} />
      {data.problem && <Notice tone="error">{data.problem}</Notice>}
      {!over && <div><Button kind="danger" onClick={() => {
        void attempt(async () => await remove(`retained/deletions/${encodeURIComponent(id)}`), texts.stopped)
      }}>{texts.stop}</Button></div>}
    </div>
  )
}

function DeleteMany({ onClose, onDone }: { onClose: () => void, onDone: () => void }): JSX.Element {
  const [filter, setFilter] = useState('')
  const [id, setId] = useState<string | undefined>()
  const [failure, setFailure] = useState<string | undefined>()
  const problem = filter ? filterProblem(filter) : null
  const texts = t.retained
  const start = async (): Promise<void> => {
    try {
      setId((await post<{ id: string }>('retained/deletions', { filter })).id)
    } catch (error) {
      setFailure(error instanceof ApiError ? error.message : String(error))
    }
  }
  return (
    <Dialog title={texts.deleteMany} onClose={onClose}>
      <form onSubmit={event => { event.preventDefault(); void start() }}>
        <div class="dialog-body">
          {id ? <DeletionProgress id={id} onDone={onDone} /> : (
            <>
              <Text label={texts.filter} mono value={filter} onInput={setFilter} placeholder="plant/old/#" problem={problem} hint={texts.filterHint} required />
              <Notice tone="warning">{texts.deleteManyEffects}</Notice>
              {failure && <Notice tone="error">{failure}</Notice>}
            </>
          )}
        </div>
        <div class="dialog-foot">
          <Button onClick={onClose}>{id ? t.close : t.cancel}</Button>
          {!id && <Button kind="danger" type="submit" disabled={!filter || Boolean(problem)}>{texts.deleteAction}</Button>}
        </div>
      </form>
    </Dialog>
  )
}

export function Retained(): JSX.Element {
  const chosen = route.value.query.get('topic') ?? ''
  const [typed, setTyped] = useState('')
  const [deleting, setDeleting] = useState(false)
  const [version, setVersion] = useState(0)
  const choose = (topic: string): void => { replaceQuery({ tab: 'retained', topic }) }
  const changed = (): void => { setVersion(old => old + 1) }
  const look = async (): Promise<void> => {
    if (!typed) return
    choose(typed)
    await get('retained/value', { topic: typed }).catch(() => undefined)
  }
  return (
    <div class="split">
      <Card title={t.retained.title} flush extra={may('operator') && (
        <Button small icon="trash" onClick={() => { setDeleting(true) }}>{t.retained.deleteMany}</Button>
      )}>
        <form class="sub-form plain" onSubmit={event => { event.preventDefault(); void look() }}>
          <input aria-label={t.retained.topic} class="mono" placeholder={t.retained.topic} value={typed}
            onInput={event => { setTyped(event.currentTarget.value) }} />
          <Button type="submit">{t.retained.show}</Button>
        </form>
        <div class="tree"><Branch prefix="" chosen={chosen} onChoose={choose} version={version} top /></div>
      </Card>
      {chosen ? <Value key={chosen} topic={chosen} onDeleted={changed} />
        : <Card><Empty title={t.retained.choose}>{t.retained.chooseHint}</Empty></Card>}
      {deleting && <DeleteMany onClose={() => { setDeleting(false) }} onDone={changed} />}
    </div>
  )
}

