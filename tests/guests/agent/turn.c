/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent.h"

void turn_take(Turn *turn)
{
    pthread_mutex_lock(&turn->lock);
    uint64_t mine = turn->last++;
    while (turn->now != mine) {
        pthread_cond_wait(&turn->moved, &turn->lock);
    }
    pthread_mutex_unlock(&turn->lock);
}

void turn_give(Turn *turn)
{
    pthread_mutex_lock(&turn->lock);
    turn->now++;
    pthread_cond_broadcast(&turn->moved);
    pthread_mutex_unlock(&turn->lock);
}
