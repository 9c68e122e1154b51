import type { JSX } from 'preact'
import { route, replaceQuery } from '../route'
import { t } from '../texts'
import { Heading, Segments } from '../ui/kit'
import { Receivers } from './receivers'
import { Retained } from './retained'
import { Sample } from './sample'

type Tab = 'retained' | 'sample' | 'receivers'

export function Topics(): JSX.Element {
  const tab = (route.value.query.get('tab') as Tab | null) ?? 'retained'
  return (
    <>
      <Heading title={t.nav.topics} lead={t.topics.leads[tab]} />
      <Segments label={t.topics.what} value={tab} onChange={value => { replaceQuery({ tab: value }) }}
        options={[['retained', t.topics.retained], ['sample', t.topics.sample], ['receivers', t.topics.receivers]]} />
      {tab === 'retained' && <Retained />}
      {tab === 'sample' && <Sample />}
      {tab === 'receivers' && <Receivers />}
    </>
  )
}
