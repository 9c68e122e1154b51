-- Claims: which member of a group of shared subscriptions a QoS 2 message is for, so that another
-- router that gets it again, or claims the same abandoned queue, queues it for the same member.
--
-- P..'k:'..group has identity -> member; when that is large it becomes P..'k2:'..group.

local CLAIMS = 4096
local CLAIM_AGE_S = 86400

-- arguments: writer, (P, group, identity, member, the member it is moved from or '')…
-- result: for each the member that has the claim now, or -3 = the writer is fenced
local function claim(i, last)
  local fenced, results = fences_of(ARGV[i], i + 1, last, 5), {}
  for at = i + 1, last, 5 do
    local P, group, identity, member = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
    local k, k2 = P .. 'k:' .. group, P .. 'k2:' .. group
    if fenced[P] then
      results[#results + 1] = -3
    else
      local holder = call('HGET', k, identity) or call('HGET', k2, identity)
      if not holder or holder == ARGV[at + 4] then
        holder = member
        call('HSET', k, identity, member)
        call('EXPIRE', k, CLAIM_AGE_S)
        if call('HLEN', k) >= CLAIMS then call('RENAME', k, k2) end
      end
      results[#results + 1] = holder
    end
  end
  return results
end
