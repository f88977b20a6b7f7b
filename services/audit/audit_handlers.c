#include "services/audit/audit.h"
#include "services/audit/audit_intake.h"

static void on_trail_block(struct intake *intake, const struct bus_token *token, const struct trail_block *message)
{
    intake_take_block(intake, token->edge, message->block.bytes, message->block.size);
}
DEFINE_BUS_HANDLER(struct intake, on_trail_block, trail_block)

static void on_trail_heartbeat(struct intake *intake, const struct bus_token *token,
                               const struct trail_heartbeat *message)
{
    intake_take_heartbeat(intake, token->edge, message);
}
DEFINE_BUS_HANDLER(struct intake, on_trail_heartbeat, trail_heartbeat)

static void on_replay_end(struct intake *intake, const struct bus_token *token, const struct replay_end *message)
{
    (void)token;
    intake_take_replay_end(intake, message);
}
DEFINE_BUS_HANDLER(struct intake, on_replay_end, replay_end)

const struct bus_handler audit_handlers[] = {
    BUS_HANDLER(on_trail_block, trail_block),
    BUS_HANDLER(on_trail_heartbeat, trail_heartbeat),
    BUS_HANDLER(on_replay_end, replay_end),
    { 0 }
};
