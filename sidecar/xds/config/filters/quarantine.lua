-- Runs in each worker of Envoy, once for each attempt of each request (an upstream filter; decision 34).
--
-- A request may be sent freely until two instances have gone down with it, or one has twice. Then it is a suspect: before it
-- is sent again, the control plane tries it, alone, where nobody is put at risk. All workers learn from the
-- metadata of the routes which `suspects` of the `service` to look out for, by their fingerprints.

local FREE = 2 -- deaths before anybody is asked
local PLANE = "@PLANE@" -- the cluster of the control plane, in Envoy's bootstrap
local STREAM, UNARY = "@STREAM@", "@UNARY@"
-- One value for each attempt so far, this one last: the instance, and how many bytes of headers all attempts
-- before had sent and received.
local TRIED = "@TRIED@"
local TURN = "@TURN@" -- which attempt this is, a repetition on one instance left out; nothing for the first
local NUMBER = "@NUMBER@" -- under which the first message of a stream is kept
local NOBODY = "@NOBODY@ " -- where requests go that can be sent to no instance (decision 61)
local PATIENCE = 600000 -- ms for the control plane's answer; the client's deadline comes first
local PUBLISHED = 5000 -- ms after which what a worker saw itself has come back with the routes
local REPEATED = 1000 -- ms for which a refusal is repeated that is not in the routes yet
local LARGEST = 1048576 -- bytes of a stream's first message, beyond which it is not looked at
local KEPT, KEPT_MS = 16777216, 60000 -- bytes of first messages, and for how long
local AGAIN = "two instances went down with this request: it is not sent again"

local seen = {} -- what this worker knows of suspects, which may not be in the routes yet
-- First messages of streams that were lost with one instance, by number; in which order they came; and how
-- many bytes more may be kept.
local kept, numbers, room = {}, 0, KEPT
local order, oldest, newest = {}, 1, 0

local FAILED_PRECONDITION, UNAVAILABLE = "9", "14"

-- Waits for the control plane's word, and returns if the request may go on. Where there is no control plane,
-- those go on who are not `known` here to have gone down with anything.
local function ask(handle, body, print, hosts, known)
  local question = {}
  for name, value in pairs(handle:headers()) do
    if name:sub(1, 1) ~= ":" then
      question[name] = value
    end
  end
  question[":method"], question[":authority"] = "POST", PLANE
  question[":path"] = "/sidecar.v1.QuarantineService/Try"
  question["x-quarantine-print"], question["x-quarantine-hosts"] = print, hosts
  question["x-quarantine-path"] = handle:headers():get(":path")
  local done, answer = pcall(handle.httpCall, handle, PLANE, question, body, PATIENCE)
  local word = done and answer["x-quarantine"]
  if word == "go" then
    seen[print] = nil
  elseif word == "told" then
    seen[print] = nil
    refuse(handle, answer["x-quarantine-status"], answer["x-quarantine-why"])
  elseif word == "refused" then
    local why = answer["x-quarantine-why"]
    seen[print] = { hosts = hosts, why = why, until_ms = handle:timestamp() + REPEATED }
    refuse(handle, FAILED_PRECONDITION, why)
  elseif known or word then
    local found = done and answer[":status"] .. " " .. (answer["grpc-message"] or "") or answer
    handle:logWarn("quarantine: " .. print .. " is not sent again: control plane: " .. found)
    refuse(handle, UNAVAILABLE, AGAIN)
  end
end

-- What went down with two instances waits for the control plane's word.
local function hold(handle, body, print, died, now)
  local hosts = table.concat(died, ",", 1, math.min(#died, FREE))
  seen[print] = { hosts = hosts, until_ms = now + PUBLISHED }
  ask(handle, body, print, hosts, true)
end

local function drop(number)
  if kept[number] then
    room = room + #kept[number].message
    kept[number] = nil
  end
end

local function forget(now)
  for print, found in pairs(seen) do
    if found.until_ms < now then
      seen[print] = nil
    end
  end
  while oldest <= newest do
    local found = kept[order[oldest]]
    if found and room >= 0 and found.until_ms >= now then
      break
    end
    drop(order[oldest])
    order[oldest], oldest = nil, oldest + 1
  end
end

-- Whether a request is a suspect, and why it is refused where that is proven.
local function look_up(known, print)
  local told, own = known and known[print], seen[print]
  return (told or own) ~= nil, told and told ~= "" and told or own and own.why
end

local function tried(headers, place)
  local host, sent, received = headers:getAtIndex(TRIED, place - 1):match("^(%S+) (%d+) (%d+)$")
  return host, tonumber(sent), tonumber(received)
end

-- The instances that went down with it, and how often that happened: it was sent to them, and nothing came back.
local function took_along(headers, attempt)
  local found, known, deaths = {}, {}, 0
  local host, sent, received = tried(headers, 1)
  for place = 2, attempt do
    local next_host, sent_since, received_since = tried(headers, place)
    if sent_since > sent and received_since == received then
      deaths = deaths + 1
      if not known[host] then
        found[#found + 1], known[host] = host, true
      end
    end
    host, sent, received = next_host, sent_since, received_since
  end
  return found, deaths
end

-- An answer that one instance gave twice counts once, the first time: Envoy avoids the priority that the
-- host has, and while the role moves that is its new one already, where the workers still go by the old one.
local function turn(headers, attempt)
  local known = {}
  for place = 1, attempt do
    local host = tried(headers, place)
    if known[host] then
      return attempt - 1
    end
    known[host] = true
  end
  return attempt
end

-- The first message of a stream with its frame, what came with it, and the piece in which it ended; nothing
-- if it is too large. The headers are on their way meanwhile, but no part of it.
local function first_message(chunks)
  local pieces, size, length = {}, 0, nil
  for piece in chunks do
    pieces[#pieces + 1] = piece:getBytes(0, piece:length())
    size = size + piece:length()
    length = length or length_of(table.concat(pieces))
    if length and (length > LARGEST or size >= length) then
      local text = table.concat(pieces)
      if length > LARGEST then
        piece:setBytes(text)
        return
      end
      return text:sub(1, length), text:sub(length + 1), piece
    end
    piece:setBytes("")
  end
end

-- Keeps the first message of a stream for the next attempt, as long as it is the only one.
local function keep(chunks, number, message, now)
  kept[number] = { message = message, until_ms = now + KEPT_MS }
  room, newest = room - #message, newest + 1
  order[newest] = number
  forget(now)
  for piece in chunks do
    if piece:length() > 0 then
      drop(number)
    end
  end
end

-- A stream is known by its first message. Where that took two instances down, it waits as others do; where it
-- is known to, when it is opened again, it does not reach a third. Of several messages nobody knows which it was.
local function on_stream(handle, headers, attempt, died, deaths, known, service)
  local now = handle:timestamp()
  forget(now)
  if deaths >= FREE then
    local found = kept[tonumber(headers:get(NUMBER) or "")]
    if found and #died <= FREE then -- with a third one something else went down that it sent since
      local message = found.message
      hold(handle, message, service .. "/stream-" .. fingerprint(message), died, now)
    else
      refuse(handle, UNAVAILABLE, AGAIN)
    end
    return
  end
  local number
  if attempt > 1 then
    numbers = numbers + 1
    number = numbers
    headers:replace(NUMBER, tostring(number)) -- before they go
  end
  local chunks = handle:bodyChunks()
  local message, rest, piece = first_message(chunks)
  if message then
    local suspect, why = look_up(known, service .. "/stream-" .. fingerprint(message))
    piece:setBytes((suspect and refusal(message, why or AGAIN .. " yet") or message) .. rest)
    if number and not suspect and rest == "" then
      keep(chunks, number, message, now)
    end
  end
end

local function meets_nobody(headers, attempt)
  return headers:getAtIndex(TRIED, attempt - 1):sub(1, #NOBODY) == NOBODY
end

-- An attempt that meets nobody counts as none: there may be twenty of them.
local function forget_last(headers, attempt)
  local others = {}
  for place = 1, attempt - 1 do
    others[place] = headers:getAtIndex(TRIED, place - 1)
  end
  headers:remove(TRIED)
  for _, value in ipairs(others) do
    headers:add(TRIED, value)
  end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local attempt = headers:getNumValues(TRIED)
  local nobody = meets_nobody(headers, attempt)
  local known = handle:metadata():get("suspects")
  local watched = known or next(seen)
  if attempt == 1 and not (watched or nobody) then
    return
  end
  local died, deaths = took_along(headers, attempt)
  if nobody then
    forget_last(headers, attempt)
    if deaths < FREE then
      return
    end
  elseif attempt > 1 then
    headers:replace(TURN, turn(headers, attempt))
  end
  local path, service = headers:get(":path"), handle:metadata():get("service") or ""
  if path == STREAM then
    on_stream(handle, headers, attempt, died, deaths, known, service)
    return
  elseif deaths < FREE and attempt > 1 then
    return
  elseif path ~= UNARY then
    if deaths >= FREE then
      refuse(handle, UNAVAILABLE, AGAIN)
    end
    return
  end
  local now = handle:timestamp()
  forget(now)
  local buffer = handle:body(true)
  local text = buffer:length() > 0 and buffer:getBytes(0, buffer:length()) or ""
  local print = service .. "/" .. fingerprint(text)
  if deaths >= FREE then
    hold(handle, text, print, died, now)
    return
  end
  local suspect, why = look_up(known, print)
  local own = seen[print]
  if why then
    refuse(handle, FAILED_PRECONDITION, why)
  elseif suspect then
    ask(handle, text, print, own and own.hosts or "", own)
  end
end
