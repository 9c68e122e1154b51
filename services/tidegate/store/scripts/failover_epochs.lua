-- A server that takes another's place, or comes back, may have lost the last numbers that were given
-- out; the same number given twice would make two owners.

local SKIPPED = 1048576

-- arguments: P, the server process' name; result: 1 if the partition had been another one's
local function succeed(i)
  local P, server = ARGV[i], ARGV[i + 1]
  if call('GET', P .. 'server') == server then return 0 end
  local found = 0
  for _, counter in ipairs({P .. 'epoch', P .. 'leases'}) do
    if call('EXISTS', counter) == 1 then
      call('INCRBY', counter, SKIPPED)
      found = 1
    end
  end
  if found == 1 then call('SET', P .. 'server', server) end
  return found
end
